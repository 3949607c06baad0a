"""Families whose towers take flat patches and a grid: the Qwen-VL line and GLM-4V."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.models.family import Family, Parts, PreparedImage, processed

COLOURS = 3


class PatchGrid(Family):
    """`pixel_values` (patches, values) of all images in a row, `image_grid_thw` one (t, h, w) in patches an image.

    The tower merges `merge_size`² patches into one feature; positions are three-dimensional.
    """

    kinds_argument = "mm_token_type_ids"
    mrope = True
    tower_takes_segments = True

    def prepare(self, image: Image.Image, parts: Parts, *, alone: bool) -> PreparedImage:
        made = processed(parts, [image])
        t, h, w = (int(side) for side in made["image_grid_thw"][0])
        tokens = t * h * w // int(parts.image_processor.merge_size) ** 2
        values = _one_frame(made["pixel_values"].astype(np.float32), parts.image_processor.temporal_patch_size)
        return PreparedImage({"pixel_values": values}, parts.image_token * tokens, tokens, (t, h, w))

    def text(self, width: int, height: int, parts: Parts, *, alone: bool) -> str:
        patches = int(parts.image_processor.get_number_of_image_patches(height, width))
        return parts.image_token * (patches // int(parts.image_processor.merge_size) ** 2)

    def collate(self, images: Sequence[PreparedImage]) -> dict[str, Any]:
        pixels = [values.reshape(len(values), -1) for values in (image.arrays["pixel_values"] for image in images)]
        return {"pixel_values": np.concatenate(pixels), "image_grid_thw": np.array([image.grid for image in images])}


def _one_frame(values: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """(patches, values) as (patches, colours, frames, values a frame).

    A still image's frames are equal (Qwen2-VL's processor repeats it to fill the tower's); they become views of one.
    """
    split = values.reshape(len(values), COLOURS, frames, -1)
    repeated = np.broadcast_to(split[:, :, :1], split.shape)
    return np.broadcast_to(split[:, :, :1].copy(), split.shape) if np.array_equal(repeated, split) else split
