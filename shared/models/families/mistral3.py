"""Mistral Small 3.1 and later: an image keeps its shape, and a token ends each of its rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from shared.models.family import Family, Parts, PreparedImage, processed

ROW_END, END = "[IMG_BREAK]", "[IMG_END]"


class Mistral3(Family):
    model_types = ("mistral3",)
    image_marks = ("[IMG]", ROW_END, END)
    turn_marks = ("<s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")

    def prepare(self, image: Image.Image, parts: Parts, *, alone: bool) -> PreparedImage:
        step = parts.patch_size * int(parts.config.spatial_merge_size)
        made = processed(parts, [image], patch_size={"height": step, "width": step})
        height, width = (int(side) for side in made["image_sizes"][0])
        rows, columns = height // step, width // step
        text = ROW_END.join([parts.image_token * columns] * rows) + END
        grid = (1, height // parts.patch_size, width // parts.patch_size)
        return PreparedImage(made, text, rows * columns, grid)

    def collate(self, images: Sequence[PreparedImage]) -> dict[str, Any]:
        sizes = np.concatenate([image.arrays["image_sizes"] for image in images])
        pixels = np.zeros((len(images), 3, *sizes.max(axis=0)), dtype=np.float32)
        for target, image, (height, width) in zip(pixels, images, sizes, strict=True):
            target[:, :height, :width] = image.arrays["pixel_values"][0]
        return {"pixel_values": pixels, "image_sizes": sizes}


FAMILIES = (Mistral3(),)
