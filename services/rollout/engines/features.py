"""Image features that outlive a group: the vision tower sees an image once, until its weights change."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.rollout.engine import PreparedPrompt
from shared.models.family import PreparedImage
from shared.models.hf.forward import EncodedImage, encode_images
from shared.models.inputs import Inputs


@dataclass
class FeatureCache:
    """Features by an image's name (`Inputs.image_key`), at most `max_bytes` of them: those that were used last."""

    model: Any
    inputs: Inputs
    max_bytes: int
    _kept: OrderedDict[str, EncodedImage] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def of(self, prompts: Sequence[PreparedPrompt]) -> list[EncodedImage]:
        """Of all images of the prompts, in the order of their placeholders; an image without a name is not kept."""
        wanted: list[str] = []
        alone: dict[str, PreparedImage] = {}
        among: dict[str, PreparedImage] = {}
        found: dict[str, EncodedImage] = {}
        for prompt in prompts:
            for place, image in enumerate(prompt.images):
                name = prompt.image_names[place] if prompt.image_names else f"{len(wanted)}"
                wanted.append(name)
                if name in self._kept:
                    self._kept.move_to_end(name)
                    found[name] = self._kept[name]
                else:
                    (alone if len(prompt.images) == 1 else among).setdefault(name, image)
        missing = alone | among  # those of a prompt with several images come last (`Family.collate`)
        if missing:
            made = encode_images(self.model, self.inputs, list(missing.values()), self.model.device)
            found |= dict(zip(missing, made, strict=True))
        for name in {name for prompt in prompts for name in prompt.image_names} & missing.keys():
            self._keep(name, found[name])
        return [found[name] for name in wanted]

    def clear(self) -> None:
        """Forget all: the weights that made them are no more."""
        self._kept.clear()
        self._bytes = 0

    def _keep(self, name: str, image: EncodedImage) -> None:
        """A copy: what the image is a part of need not stay for it. One above the bound drops no other."""
        if image.nbytes > self.max_bytes:
            return
        image = EncodedImage(image.pooled.clone(), tuple(level.clone() for level in image.levels))
        self._kept[name] = image
        self._bytes += image.nbytes
        while self._bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
