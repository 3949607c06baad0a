"""Families whose towers take flat patches and a grid: the Qwen-VL line and GLM-4V.

A prepared image is 8-bit patches and the value of each of their 256 levels, a quarter of the bytes of what the tower
takes: rescaling and normalising are functions of one channel's value, so the image processor is asked for 3 · 256 of
them, and they are looked up when a batch is put together. The values are the processor's own, bit for bit.
"""

from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.models.family import Family, Parts, PreparedImage

COLOURS, LEVELS = 3, 256


class PatchGrid(Family):
    """`pixel_values` (patches, values) of all images in a row, `image_grid_thw` one (t, h, w) in patches an image.

    The tower merges `merge_size`² patches into one feature; positions are three-dimensional. Prepared are `patches`
    uint8 (patches, colours, frames, values a frame), whose frames are views of one, since a still image fills all of
    the tower's, and `levels` float32 (colours, 256).
    """

    kinds_argument = "mm_token_type_ids"
    mrope = True
    tower_takes_segments = True

    def prepare(self, image: Image.Image, parts: Parts, *, alone: bool) -> PreparedImage:
        processor = parts.image_processor
        pixels = np.asarray(image).transpose(2, 0, 1)  # a view: Pillow's order is what the processor resizes in
        if processor.do_resize:
            pixels = processor.resize(
                pixels,
                size=SimpleNamespace(**{edge: processor.size[edge] for edge in ("shortest_edge", "longest_edge")}),
                resample=processor.resample,
                factor=processor.patch_size * processor.merge_size,
                temporal_factor=processor.temporal_patch_size,
            )
        patches = _patches(pixels, processor.patch_size, processor.merge_size)
        frames = np.broadcast_to(
            patches[:, :, None], (*patches.shape[:2], processor.temporal_patch_size, patches.shape[2])
        )
        height, width = (side // processor.patch_size for side in pixels.shape[1:])
        tokens = height * width // processor.merge_size**2
        arrays: dict[str, NDArray[Any]] = {"patches": frames, "levels": _levels(processor)}
        return PreparedImage(arrays, parts.image_token * tokens, tokens, (1, height, width))

    def text(self, width: int, height: int, parts: Parts, *, alone: bool) -> str:
        patches = int(parts.image_processor.get_number_of_image_patches(height, width))
        return parts.image_token * (patches // int(parts.image_processor.merge_size) ** 2)

    def collate(self, images: Sequence[PreparedImage]) -> dict[str, Any]:
        shape = images[0].arrays["patches"].shape[1:]
        values = np.empty((sum(len(image.arrays["patches"]) for image in images), *shape), dtype=np.float32)
        start = 0
        for image in images:
            patches, levels = image.arrays["patches"], image.arrays["levels"]
            of_image = values[start : (start := start + len(patches))]
            for colour in range(COLOURS):
                of_image[:, colour] = levels[colour][patches[:, colour, 0]][:, None]
        return {
            "pixel_values": values.reshape(len(values), -1),
            "image_grid_thw": np.array([image.grid for image in images]),
        }


@lru_cache(maxsize=8)
def _levels(processor: Any) -> NDArray[np.float32]:
    """What the processor, one object a job, makes of each level of each colour, (colours, 256); not to be written."""
    ramp = np.tile(np.arange(LEVELS, dtype=np.uint8), (COLOURS, 1))[:, :, None]  # an image of 256 rows
    if processor.do_rescale:
        ramp = processor.rescale(ramp, processor.rescale_factor)
    if processor.do_normalize:
        ramp = processor.normalize(ramp, processor.image_mean, processor.image_std)
    levels = np.asarray(ramp, dtype=np.float32)[:, :, 0]
    levels.setflags(write=False)
    return levels


def _patches(pixels: NDArray[np.uint8], side: int, merge: int) -> NDArray[np.uint8]:
    """`pixels` (colours, H, W) as (patches, colours, side²), patches that are merged together in a row.

    Source: transformers 5.19, `Qwen2VLImageProcessorPil.patchify`. A row of a patch is moved as one value.
    """
    _, height, width = pixels.shape
    rows = np.ascontiguousarray(pixels).view(f"V{side}")
    blocks = rows.reshape(COLOURS, height // side // merge, merge, side, width // side // merge, merge)
    moved = np.ascontiguousarray(blocks.transpose(1, 4, 2, 5, 0, 3))
    return moved.view(np.uint8).reshape(-1, COLOURS, side * side)
