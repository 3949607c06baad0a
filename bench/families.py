"""Three training steps over real processes on real images, a tiny model of each of three families.

Prints one JSON line a family: the largest |log π learner − log π rollout| of the three steps, and the checks at load.
The images are those of `tests/models/real.py`: real where they lie beside the checkout, else drawn (`images`).
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from tests.loop.system import running
from tests.models.real import drawn_images, real_images, three_steps
from tests.models.tiny import make

FAMILIES = ("qwen3_vl", "smolvlm", "gemma3")
LIMIT = 1e-3


async def measure(family: str, images: Path, folder: Path) -> dict[str, object]:
    """The job's figures; raises AssertionError when it failed."""
    model = make(family, folder / "model")
    async with running(folder, model, images) as system:
        job = system.submit(**three_steps(model, images))
        report = await system.finished(job)
        rows = pq.read_table(system.deployment.runs / job / "metrics.parquet").to_pylist()
    mismatch = [row["value"] for row in rows if row["name"] == "learner/mismatch_max"]
    checks = {f"{engine['service']}_self_check": engine["self_check"] for engine in report["engines"]}
    groups = report["groups"]
    return {
        "bench": "families",
        "family": family,
        "images": "drawn" if images.is_relative_to(folder) else "real",
        "steps": report["steps"],
        "trained": groups["trained"],
        "void": groups["void"],
        "mismatch_max": max(mismatch, default=float("nan")),
        **checks,
    }


def main() -> int:
    """Run every family; the exit code is 1 when one of them differs by more than the limit."""
    worst = 0.0
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            line = asyncio.run(measure(family, real_images() or drawn_images(folder / "drawn"), folder))
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        worst = max(worst, float(str(line["mismatch_max"])))
    return int(not worst < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
