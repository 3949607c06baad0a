"""Training on a curated set against the raw one: `python bench/curated.py [--steps 60] [--seeds 3]`, JSON lines.

The demo's tasks, warm-started model and job. The set is curated by that model (`triune data curate` with the paper's
thresholds and no other rule); each seed trains the same number of steps on both. Reward is the held-out, greedy one.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.loop import REPLICAS, run_job
from shared.jobs.document import write_toml
from shared.samples.files import count_rows, open_files
from triune.demo.dataset import make
from triune.demo.main import Options, compute_threads, demo_job
from triune.demo.warm_start import Recipe, warm_start
from triune.local.deployment import Deployment, deployed

TRIES = 8
ROWS = 200
"""Training rows of each task."""


async def curate(system: Deployment, model: Path, data: Path, out: Path) -> dict[str, Any]:
    """What `triune data curate` prints of the demo's job."""
    job_file = out.with_suffix(".toml")
    job_file.write_text(write_toml(demo_job(data.parent, model, Options())))
    env = {"TRIUNE_API_URL": system.api_url, "TRIUNE_API_TOKEN": system.token, "TRIUNE_RUNS": str(system.runs)}
    options = ["--no-rules", "--keep-duplicates", "--tries", str(TRIES), "--json"]
    command = ["-m", "triune", "data", "curate", str(data), "--out", str(out), "--job", str(job_file), *options]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=os.environ | env, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"data curate ended with {process.returncode}")
    return dict(json.loads(printed))


def job(model: Path, data: Path, train: Path, seed: int, steps: int) -> dict[str, Any]:
    document = msgspec.to_builtins(demo_job(data, model, Options(steps=steps, seed=seed)))
    document["data"]["train"] = [str(train)]
    document["evaluation"]["every"] = steps
    document["learner"]["checkpoint_every"] = 0
    return dict(document)


def rewards(report: dict[str, Any], when: str) -> dict[str, float]:
    """Held-out reward by task."""
    return {name: source[when] for name, source in report["sources"].items()}


async def measure(folder: Path, models: Path, steps: int, seeds: int) -> None:
    data, out = folder / "data", folder / "curated"
    await asyncio.to_thread(make, data, train_per_task=ROWS, held_out_per_task=96)
    model = await asyncio.to_thread(warm_start, models, None, Recipe())
    async with (
        deployed(folder / "runs", folder / "local", replicas=REPLICAS, threads=compute_threads(0)) as system,
        httpx.AsyncClient(base_url=system.api_url, headers=system.headers, timeout=120.0) as client,
    ):
        told = await curate(system, model, data / "train", out)
        kept = {
            name: count_rows(open_files([str(path)]))
            for name, path in (("raw", data / "train"), ("curated", out / "curated"))
        }
        line(curate=told, rows=kept)
        found: dict[str, list[dict[str, float]]] = {"raw": [], "curated": []}
        for seed in range(seeds):
            for name, train in (("raw", data / "train"), ("curated", out / "curated")):
                report = await run_job(client, job(model, data, train, seed, steps), limit_s=3600.0)
                after = rewards(report, "after")
                found[name].append(after)
                mean = statistics.mean(after.values())
                before = statistics.mean(rewards(report, "before").values())
                line(
                    set=name,
                    seed=seed,
                    steps=report["steps"],
                    before=round(before, 4),
                    after=round(mean, 4),
                    tasks=after,
                )
    means = {name: [statistics.mean(after.values()) for after in runs] for name, runs in found.items()}
    gains = [curated - raw for raw, curated in zip(means["raw"], means["curated"], strict=True)]
    line(curated_minus_raw=[round(gain, 4) for gain in gains], mean=round(statistics.mean(gains), 4))


def line(**values: Any) -> None:
    sys.stdout.write(json.dumps({"bench": "curated"} | values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--models", type=Path, help="folder that keeps the warm-started model; a temporary one if absent"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(measure(Path(made), options.models or Path(made), options.steps, options.seeds))
