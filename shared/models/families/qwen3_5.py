"""Qwen3.5: three of four layers carry a state from token to token (Gated DeltaNet), the fourth attends to all."""

from typing import ClassVar

from shared.models.families.qwen2_vl import IMAGE_MARKS
from shared.models.family import Boxes
from shared.models.patch_grid import PatchGrid


class Qwen35(PatchGrid):
    model_types = ("qwen3_5",)
    image_marks = IMAGE_MARKS
    turn_marks = ("<|im_start|>",)
    boxes: ClassVar[Boxes | None] = "relative"
    recurrent = True


FAMILIES = (Qwen35(),)
