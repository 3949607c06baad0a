"""LLaVA-OneVision: a prompt's only image is cut into tiles by its shape, one among several is one padded square."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.models.family import Family, Parts, PreparedImage, processed


class LlavaOneVision(Family):
    model_types = ("llava_onevision",)
    image_marks = ("<image>", "<video>")
    turn_marks = ("<|im_start|>",)
    alone_differs = True

    def prepare(self, image: Image.Image, parts: Parts, *, alone: bool) -> PreparedImage:
        # The processor knows an image among several by the list it stands in.
        made = processed(parts, [[image]] if alone else [[image, Image.new("RGB", (8, 8))]])
        tiles: NDArray[Any] = made["pixel_values"][0]
        size = made["image_sizes"][:1]
        side = tiles.shape[-1] // parts.patch_size
        base = side**2
        if parts.config.vision_feature_select_strategy != "full":
            raise ValueError("the tower's first feature is dropped by vision_feature_select_strategy; expected 'full'")
        tokens = base + (_tiled(parts.config, int(size[0][0]), int(size[0][1]), side) if alone else 1)
        arrays = {"pixel_values": tiles, "image_sizes": size, "alone": np.array(alone)}
        grid = (1, max(1, int(size[0][0]) // parts.patch_size), max(1, int(size[0][1]) // parts.patch_size))
        return PreparedImage(arrays, parts.image_token * tokens, tokens, grid)

    def collate(self, images: Sequence[PreparedImage]) -> dict[str, Any]:
        most = max(len(image.arrays["pixel_values"]) for image in images)
        tiles = [image.arrays["pixel_values"] for image in images]
        padded = [np.pad(one, [(0, most - len(one)), (0, 0), (0, 0), (0, 0)]) for one in tiles]
        return {
            "pixel_values": np.stack(padded),
            "image_sizes": np.concatenate([image.arrays["image_sizes"] for image in images]),
            "batch_num_images": _counts([bool(image.arrays["alone"]) for image in images]),
        }


def _counts(alone: Sequence[bool]) -> list[int]:
    """Images a prompt, of which the model reads only whether they are 1: neighbours that are not alone count as one
    prompt's, a last one that stands for itself as two.
    """
    runs = [(flag, len(list(run))) for flag, run in groupby(alone)]
    return [count for flag, size in runs for count in ([1] * size if flag else [max(2, size)])]


def _tiled(config: Any, height: int, width: int, side: int) -> int:
    """Features of the tiles of an image, padding removed, with one that ends each row.

    `side` is a tile's in patches. Source: transformers, models/llava_onevision/processing_llava_onevision.py.
    """
    best = _best_resolution(height, width, config.image_grid_pinpoints)
    tile = int(config.vision_config.image_size)
    rows, columns = side * (best[0] // tile), side * (best[1] // tile)
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    ratio = math.sqrt(rows * columns / (int(config.vision_aspect_ratio.removeprefix("anyres_max_")) * side**2))
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return rows * columns + rows


def _best_resolution(height: int, width: int, resolutions: Sequence[Sequence[int]]) -> Sequence[int]:
    """The one that keeps most of the image's pixels, then the one that wastes least; the first of equals."""

    def worth(resolution: Sequence[int]) -> tuple[int, int]:
        scale = min(resolution[1] / width, resolution[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - resolution[0] * resolution[1]

    return max(resolutions, key=worth)


FAMILIES = (LlavaOneVision(),)
