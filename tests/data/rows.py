"""Rows and files for the tests of the data service."""

import copy
import io
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from shared.samples.schema import RATIO_NAMES, SCHEMA


@cache
def png(width: int = 28, height: int = 28, shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade % 256, shade // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def math_row(number: int = 0, source: str = "numbers", **reward: Any) -> dict[str, Any]:
    """A good mathverify row; `reward` replaces fields of reward_model."""
    leaves = {"det_verifier_normalized": None, "det_reward_ratio": dict.fromkeys(RATIO_NAMES)}
    model = {"answer": "4", "ground_truth": "\\boxed{4}", "accuracy_ratio": 1.0, "format_ratio": 0.0}
    return {
        "data_source": source,
        "images": [{"bytes": png(shade=number), "path": "a.png"}],
        "prompt": [{"content": f"<image>How many in {number}?", "role": "user"}],
        "ability": "counting",
        "reward_model": model | {"verifier": "mathverify", "verifier_parm": leaves} | reward,
        "extra_info": {"id": f"{source}/{number}", "image_path": "a.png"},
    }


def boxes_row(number: int = 0, source: str = "boxes", **reward: Any) -> dict[str, Any]:
    """A good detection row."""
    answer = "[{'bbox_2d': [10, 20, 300, 400], 'label': 'cat'}]"
    ratios = dict.fromkeys(RATIO_NAMES, 0.0) | {"iou_max_label_first": 1.0, "iou_completeness": 0.5}
    row = math_row(number, source)
    row["ability"] = "cv_detection"
    row["reward_model"] = {
        "answer": answer,
        "ground_truth": f"<answer>\n{answer}\n</answer>",
        "accuracy_ratio": 1.0,
        "format_ratio": 0.1,
        "verifier": "detection",
        "verifier_parm": {"det_verifier_normalized": True, "det_reward_ratio": ratios},
    } | reward
    return row


def broken_row(number: int = 0, source: str = "numbers") -> dict[str, Any]:
    """A row whose image has no bytes."""
    row = copy.deepcopy(math_row(number, source))
    row["images"][0]["bytes"] = b""
    return row


def write(path: Path, rows: list[dict[str, Any]], group: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=group)
    return path
