"""The images of one step: pixels prepared ahead of their micro-batch, features kept for the passes that follow."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from services.learner.attention.batch import Part
from services.learner.engines.share import MicroBatch
from services.learner.intake.pixels import PixelCache
from services.learner.policy.model import Images, VisionLanguageModel


class StepImages:
    """What the micro-batches of one step see of images."""

    def __init__(
        self, model: VisionLanguageModel, pixels: PixelCache, *, in_team: bool, feature_bytes: int, tower_bytes: int
    ) -> None:
        """What is kept at most: of frozen features, and of what a frozen tower hands to a trained connector.

        `in_team`: other ranks train the same model, so that a trained tower has to run on this one, too.
        """
        self._model, self._pixels, self._in_team = model, pixels, in_team
        self._feature_bytes, self._tower_bytes = feature_bytes, tower_bytes
        self._features: dict[str, Tensor] = {}

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, the tower keeps what it has made."""
        tower = self._model.tower
        if tower is None or not self._tower_bytes:
            yield
            return
        tower.limit_bytes = self._tower_bytes
        try:
            yield
        finally:
            tower.forget()

    def ahead(self, batches: Sequence[MicroBatch]) -> Iterator[MicroBatch]:
        """The micro-batches one by one, the images of the next being prepared beside each."""
        for index, parts in enumerate(batches):
            needed = {
                image.name: image
                for part in itertools.chain(*batches[index + 1 : index + 2])
                for image in part.group.images
            }
            self._pixels.ahead(image for name, image in needed.items() if name not in self._features)
            yield parts

    def of(self, parts: Sequence[Part]) -> Images:
        """A micro-batch's: features where the tower is frozen, else pixels that it must see with gradient."""
        needed = {image.name: image for part in parts for image in part.group.images}
        known = {name: self._features[name] for name in needed if name in self._features}
        missing = {name: self._pixels.get(needed[name]) for name in sorted(needed.keys() - known.keys())}
        # Those of a prompt with several images come last (`Family.collate`), equal sizes stand together.
        order = sorted(missing, key=lambda name: (not needed[name].alone, missing[name].grid))
        images = Images(known, {name: missing[name] for name in order})
        if not self._model.vision_frozen:
            return self._model.with_dummy(images) if self._in_team and not missing else images
        features = self._model.features_of(images)
        self._keep(features)
        return Images(features)

    def _keep(self, features: Mapping[str, Tensor]) -> None:
        held = sum(value.nbytes for value in self._features.values())
        for name, value in features.items():
            if name not in self._features and held + value.nbytes <= self._feature_bytes:
                self._features[name] = value
                held += value.nbytes
