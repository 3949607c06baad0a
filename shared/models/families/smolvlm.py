"""SmolVLM and Idefics3: an image is cut into square tiles, the whole image after them as one more tile."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from shared.models.family import Family, Parts, PreparedImage, processed

FRAME, WHOLE = "<fake_token_around_image>", "<global-img>"


class SmolVLM(Family):
    model_types = ("smolvlm", "idefics3")
    image_marks = (FRAME, WHOLE, "<image>", "<row_*_col_*>", "<video>")
    turn_marks = ("<|im_start|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")

    def prepare(self, image: Image.Image, parts: Parts, *, alone: bool) -> PreparedImage:
        made = processed(parts, [[image]], return_row_col_info=True)
        tiles = made["pixel_values"][0]  # all of one size: nothing is padded
        rows, columns = int(made["rows"][0][0]), int(made["cols"][0][0])
        side = tiles.shape[-1] // parts.patch_size
        each = (side // int(parts.config.scale_factor)) ** 2
        arrays = {"pixel_values": tiles, "pixel_attention_mask": made["pixel_attention_mask"][0]}
        grid = (1, max(1, rows) * side, max(1, columns) * side)
        return PreparedImage(arrays, _text(rows, columns, parts.image_token * each), len(tiles) * each, grid)

    def collate(self, images: Sequence[PreparedImage]) -> dict[str, Any]:
        return {name: np.asarray(tiles)[None] for name, tiles in super().collate(images).items()}


def _text(rows: int, columns: int, tile: str) -> str:
    """Tiles row by row, then the whole image; source: transformers, models/smolvlm/processing_smolvlm.py."""
    lines = [
        "".join(f"{FRAME}<row_{row + 1}_col_{column + 1}>{tile}" for column in range(columns)) + "\n"
        for row in range(rows)
    ]
    return "".join(lines) + ("\n" if rows else "") + f"{FRAME}{WHOLE}{tile}{FRAME}"


FAMILIES = (SmolVLM(),)
