"""A model family: what differs between vision-language models, as facts and a few pure functions on arrays.

Sampler and learner use the same object, so that the log-probs of one are log-probs of the same distribution as those
of the other. Nothing here needs torch: what both do with a loaded model is in `shared/models/hf`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Boxes = Literal["relative", "relative_yx", "resized", "original"]
"""What a family writes for a box: x1 y1 x2 y2 in thousandths of the image, the same with y first, or pixels of the
image as the model saw it or as it is stored."""


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """One image as its family's tower takes it.

    `arrays` are the image processor's output for this image alone, as `Family.collate` joins it with others'; `text`
    replaces the chat template's placeholder and holds the image token `tokens` times, one a feature of the image.
    `grid` (t, h, w) is the size of the image as the model saw it, in patches.
    """

    arrays: Mapping[str, NDArray[Any]]
    text: str
    tokens: int
    grid: tuple[int, int, int]

    @property
    def nbytes(self) -> int:
        """Bytes held; an array that repeats another one by strides of 0 counts as that one."""
        return sum(_held(array) for array in self.arrays.values())


def _held(array: NDArray[Any]) -> int:
    return int((array if array.base is None or 0 not in array.strides else array.base).nbytes)


@dataclass(frozen=True)
class Parts:
    """A model's configuration, tokenizer and image processor: Hugging Face's objects, taken for what they have."""

    config: Any
    tokenizer: Any
    image_processor: Any

    @property
    def image_token(self) -> str:
        """The token that is repeated once a feature of an image."""
        return str(self.tokenizer.convert_ids_to_tokens(int(self.config.image_token_id)))

    @property
    def patch_size(self) -> int:
        """Side of a patch of the vision tower, in pixels."""
        size = self.config.vision_config.patch_size
        return int(size if isinstance(size, int) else size[0])


class Family:
    """The facts of one family; a subclass in `shared/models/families` is its registration."""

    model_types: ClassVar[tuple[str, ...]]
    """`model_type` in config.json of the models that belong to it."""
    image_marks: ClassVar[tuple[str, ...]]
    """Tokens that only an image puts into a prompt: never sampled, refused in a text. `*` stands for any characters."""
    turn_marks: ClassVar[tuple[str, ...]]
    """Tokens that begin or frame a turn: never sampled."""
    boxes: ClassVar[Boxes | None] = None
    """What it writes for a box by default; None: its makers say nothing."""
    kinds_argument: ClassVar[str | None] = None
    """The forward pass's argument that says which tokens are an image's (1); without it some are silently wrong."""
    mrope: ClassVar[bool] = False
    """Positions have three axes, by the model's own `get_rope_index`; else they count the tokens."""
    recurrent: ClassVar[bool] = False
    """Some layers carry a state from token to token instead of looking back."""
    two_way_images: ClassVar[bool] = False
    """The tokens of an image attend to each other in both directions."""
    tower_takes_segments: ClassVar[bool] = False
    """Its tower attends within segments of one row of patches; else images are a batch."""
    alone_differs: ClassVar[bool] = False
    """An image that is its prompt's only one is prepared otherwise than one among several."""

    def placeholder(self, parts: Parts) -> str:
        """What the chat template writes for an image."""
        return parts.image_token

    def prepare(self, image: Image.Image, parts: Parts, *, alone: bool) -> PreparedImage:
        """`image` (RGB) for the tower; `alone`: no other image is in its prompt.

        Raises ValueError when the image processor refuses it.
        """
        raise NotImplementedError

    def text(self, width: int, height: int, parts: Parts, *, alone: bool) -> str:
        """What `prepare` puts into the prompt for any image of that size in pixels; raises ValueError as it does."""
        return self.prepare(Image.new("RGB", (width, height)), parts, alone=alone).text

    def collate(self, images: Sequence[PreparedImage]) -> dict[str, Any]:
        """The arguments of the model for `images` (one or more) in the order of their placeholders.

        Images of one prompt stand together; where some of them are left out, those that are not alone come last.
        """
        names = images[0].arrays
        return {name: np.concatenate([image.arrays[name] for image in images]) for name in names}


def processed(parts: Parts, images: Any, **options: Any) -> dict[str, NDArray[Any]]:
    """The image processor's output as arrays."""
    made = parts.image_processor(images=images, return_tensors="np", **options)
    return {name: np.asarray(value) for name, value in made.items()}
