"""Real images in the Orsta schema, which lie beside the checkout and not in it."""

import os
from pathlib import Path

BESIDE = Path(__file__).parents[2].parent / "shared" / "data" / "orsta-mini"


def real_images() -> Path | None:
    """The folder: `ORSTA_MINI`, else `../shared/data/orsta-mini`; None where neither is."""
    folder = Path(os.environ.get("ORSTA_MINI", BESIDE))
    return folder if (folder / "train").is_dir() else None


def three_steps(model: Path, images: Path) -> dict[str, object]:
    """A job of three steps on real images of four sources; answers are short, and weight decay moves the model."""
    names = ("ocr_sroie_48", "counting_nlvr_24", "detection_raccoon_20", "science_scibench_48")
    return {
        "name": "real",
        "model": str(model),
        "total_steps": 3,
        "data": {
            "train": [str(images / "train" / f"train_{name}.parquet") for name in names],
            "held_out": [],
            "max_image_pixels": 160 * 160,
            "cot_prompts": False,
        },
        "algorithm": {"prompts_per_step": 4, "samples_per_prompt": 2},
        "sampling": {"max_new_tokens": 8},
        "optimizer": {"learning_rate": 0.05, "weight_decay": 1.0, "freeze": []},
        "learner": {"checkpoint_every": 0},
    }
