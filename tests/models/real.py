"""Real images in the Orsta schema, which lie beside the checkout and not in it; drawn ones take their place."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from shared.samples.schema import SCHEMA

BESIDE = Path(__file__).parents[2].parent / "shared" / "data" / "orsta-mini"
NAMES = ("ocr_sroie_48", "counting_nlvr_24", "detection_raccoon_20", "science_scibench_48")
DRAWN_SIZES = {"ocr_sroie_48": (180, 42), "counting_nlvr_24": (400, 100), "detection_raccoon_20": (416, 312)}
"""Sizes as the real ones have them; the fourth source has one row in two without an image."""
DRAWN_ROWS = 8


def real_images() -> Path | None:
    """The folder: `ORSTA_MINI`, else `../shared/data/orsta-mini`; None where neither is."""
    folder = Path(os.environ.get("ORSTA_MINI", BESIDE))
    return folder if (folder / "train").is_dir() else None


def drawn_images(folder: Path) -> Path:
    """Stand-ins in `folder`: the same files, schema and sizes; noise over gradients as JPEG."""
    random = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    for name in NAMES:
        rows = [_drawn_row(name, number, random) for number in range(DRAWN_ROWS)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "train" / f"train_{name}.parquet")
    return folder


def _drawn_row(name: str, number: int, random: np.random.Generator) -> dict[str, object]:
    size = DRAWN_SIZES.get(name, (224, 160) if number % 2 else None)
    source = name.rsplit("_", 1)[0]
    return {
        "data_source": source,
        "images": [{"bytes": _photo(size, random), "path": f"{number}.jpg"}] if size else [],
        "prompt": [{"role": "user", "content": f"{'<image>' if size else ''}How many things are there?"}],
        "ability": source.split("_")[0],
        "reward_model": {
            "answer": "3",
            "ground_truth": "\\boxed{3}",
            "accuracy_ratio": 1.0,
            "format_ratio": 0.0,
            "verifier": "mathverify",
            "verifier_parm": {"det_verifier_normalized": None, "det_reward_ratio": None},
        },
        "extra_info": {"id": f"{source}/{number}", "image_path": ""},
    }


def _photo(size: tuple[int, int], random: np.random.Generator) -> bytes:
    width, height = size
    light = np.linspace(0, 200, width)[None, :, None] + random.integers(0, 56, (height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(light.astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def three_steps(model: Path, images: Path) -> dict[str, object]:
    """A job of three steps on real images of four sources; answers are short, and weight decay moves the model."""
    return {
        "name": "real",
        "model": str(model),
        "total_steps": 3,
        "data": {
            "train": [str(images / "train" / f"train_{name}.parquet") for name in NAMES],
            "held_out": [],
            "max_image_pixels": 160 * 160,
            "cot_prompts": False,
        },
        "algorithm": {"prompts_per_step": 4, "samples_per_prompt": 2},
        "sampling": {"max_new_tokens": 8},
        "optimizer": {"learning_rate": 0.05, "weight_decay": 1.0, "freeze": []},
        "learner": {"checkpoint_every": 0},
    }
