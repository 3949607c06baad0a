"""GLM-4.1V: flat patches as in the Qwen-VL line, with marks of its own."""

from typing import ClassVar

from shared.models.family import Boxes
from shared.models.patch_grid import PatchGrid


class Glm4v(PatchGrid):
    model_types = ("glm4v",)
    image_marks = (
        "<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|video|>",
    )  # fmt: skip
    turn_marks = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
    boxes: ClassVar[Boxes | None] = "relative"


FAMILIES = (Glm4v(),)
