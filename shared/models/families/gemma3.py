"""Gemma 3: an image is always one square; its tokens see each other, and most layers see a window of the text."""

from typing import ClassVar

from PIL import Image

from shared.models.family import Boxes, Family, Parts, PreparedImage, processed

START, END = "<start_of_image>", "<end_of_image>"


class Gemma3(Family):
    model_types = ("gemma3",)
    image_marks = (START, END, "<image_soft_token>")
    turn_marks = ("<bos>", "<start_of_turn>")
    boxes: ClassVar[Boxes | None] = "relative_yx"  # undocumented; by its makers' word as Gemini's: y first, 0-1000
    kinds_argument = "token_type_ids"
    two_way_images = True

    def placeholder(self, parts: Parts) -> str:
        return START

    def prepare(self, image: Image.Image, parts: Parts, *, alone: bool) -> PreparedImage:
        # Crops beside the image (pan and scan) would stand in a text of their own; the processor's default is off.
        made = processed(parts, [image], do_pan_and_scan=False)
        tokens = int(parts.config.mm_tokens_per_image)
        height, width = made["pixel_values"].shape[-2:]
        text = f"\n\n{START}{parts.image_token * tokens}{END}\n\n"
        grid = (1, height // parts.patch_size, width // parts.patch_size)
        return PreparedImage({"pixel_values": made["pixel_values"]}, text, tokens, grid)


FAMILIES = (Gemma3(),)
