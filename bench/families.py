"""Three training steps over real processes on real images, a tiny model of each of three families.

Prints one JSON line a family: the largest |log π learner − log π rollout| of the three steps, and the checks at load.
The images are those of `tests/models/real.py`; without them there is nothing to measure.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from tests.loop.system import running
from tests.models.real import real_images, three_steps
from tests.models.tiny import make

FAMILIES = ("qwen3_vl", "smolvlm", "gemma3")
NAMES = ("mismatch_max", "self_check")
LIMIT = 1e-3


async def measure(family: str, images: Path, folder: Path) -> dict[str, object]:
    """The job's figures; raises AssertionError when it failed."""
    model = make(family, folder / "model")
    async with running(folder, model, images) as system:
        job = system.submit(**three_steps(model, images))
        report = await system.finished(job)
        rows = pq.read_table(system.deployment.runs / job / "metrics.parquet").to_pylist()
    largest = {
        name: max((row["value"] for row in rows if row["name"] == f"learner/{name}"), default=float("nan"))
        for name in NAMES
    }
    return {"bench": "families", "family": family, "steps": report["steps"], **largest}


def main() -> int:
    """Run every family; the exit code is 1 when one of them differs by more than the limit."""
    images = real_images()
    if images is None:
        sys.stderr.write("no orsta-mini beside the checkout; ORSTA_MINI names it\n")
        return 0
    worst = 0.0
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            line = asyncio.run(measure(family, images, Path(folder)))
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        worst = max(worst, float(str(line["mismatch_max"])))
    return int(not worst < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
