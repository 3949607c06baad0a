"""Qwen3-VL: interleaved mRoPE, and DeepStack, features of several tower layers that the first decoder layers add."""

from typing import ClassVar

from shared.models.families.qwen2_vl import IMAGE_MARKS
from shared.models.family import Boxes
from shared.models.patch_grid import PatchGrid


class Qwen3VL(PatchGrid):
    model_types = ("qwen3_vl",)
    image_marks = IMAGE_MARKS
    turn_marks = ("<|im_start|>",)
    boxes: ClassVar[Boxes | None] = "relative"


FAMILIES = (Qwen3VL(),)
