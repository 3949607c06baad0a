"""Qwen2-VL and Qwen2.5-VL."""

from typing import ClassVar, Final

from shared.models.family import Boxes
from shared.models.patch_grid import PatchGrid

IMAGE_MARKS: Final = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


class Qwen2VL(PatchGrid):
    model_types = ("qwen2_vl",)
    image_marks = IMAGE_MARKS
    turn_marks = ("<|im_start|>",)
    boxes: ClassVar[Boxes | None] = "relative"


class Qwen25VL(Qwen2VL):
    model_types = ("qwen2_5_vl",)
    boxes = "resized"  # `bbox_2d` in pixels of the resized image (grid · 14)


FAMILIES = (Qwen2VL(), Qwen25VL())
