"""Generation beside training, with engines of known times in the real services: what of the ideal overlap is reached.

`python bench/overlap.py [--rollout S --learner S --steps N]` prints JSON lines. A step's groups take the rollout engine
`--rollout` seconds, one after the other, and its update the learner's `--learner`; both sleep, as on devices of their
own. On-policy a step takes their sum at best, off-policy the larger one; on-policy with `learner.overlap` the sum less
what is computed beside generation, all but the last portion. The first steps, which fill the window, are left out.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq

import services.learner.app
from bench.loop import REPLICAS, run_job
from services.learner.attention.batch import Ready
from services.learner.engine import StepResult, StepWork
from services.learner.overlap import SHARE
from services.rollout.engines.feed import Feed
from services.rollout.engines.hf import HfEngine
from shared.messages import Completion
from tests.chaos import fakes
from triune.demo.dataset import make
from triune.demo.tiny_vlm import make_tiny_vlm
from triune.local.deployment import deployed

GROUPS, FIRST = 16, 3
"""Groups of a step, and the steps that are left out."""


class SleepingRollout(fakes.FakeRollout):
    """A group takes its share of the step's seconds, and no two of them at once."""

    def stream(self, feed: Feed) -> Iterator[tuple[int, list[Completion]]]:
        for made in super().stream(feed):
            time.sleep(float(os.environ["BENCH_ROLLOUT_S"]) / GROUPS)
            yield made


class SleepingLearner(fakes.FakeLearner):
    """A group takes its share of the step's seconds, whether its passes are made before the others have come or not."""

    def begin(self, groups: Sequence[Ready], *, importance: bool) -> None:
        time.sleep(float(os.environ["BENCH_LEARNER_S"]) * len(groups) / GROUPS)

    def step(self, work: StepWork) -> StepResult:
        time.sleep(float(os.environ["BENCH_LEARNER_S"]) * (1 - sum(map(len, work.portions)) / GROUPS))
        return super().step(work)


def serve(service: str) -> None:
    """`triune serve` with these engines."""
    fakes.install()
    HfEngine.open = lambda *_, **__: SleepingRollout()  # type: ignore[assignment]
    services.learner.app.TorchEngine = SleepingLearner  # type: ignore[assignment,misc]
    from triune.cli import app

    app(["serve", service], standalone_mode=True)


def job(model: Path, data: Path, steps: int, max_staleness: int, overlap: str) -> dict[str, Any]:
    return {
        "name": f"overlap-{overlap}-{max_staleness}",
        "model": str(model),
        "total_steps": steps,
        "data": {"train": [str(data / "train")], "cot_prompts": False},
        "algorithm": {"prompts_per_step": GROUPS, "samples_per_prompt": 2, "max_staleness": max_staleness},
        "learner": {"checkpoint_every": 0, "overlap": overlap},
    }


async def measure(folder: Path, rollout_s: float, learner_s: float, steps: int) -> None:
    """A line for each way to overlap, with the share of its ideal that is reached."""
    model = make_tiny_vlm(folder / "model", ["How many?"] * 8)
    await asyncio.to_thread(make, folder / "data", train_per_task=60, held_out_per_task=1)
    command = [sys.executable, __file__, "serve"]
    env = {"BENCH_ROLLOUT_S": str(rollout_s), "BENCH_LEARNER_S": str(learner_s)}
    async with (
        deployed(
            folder / "runs", folder / "local", replicas=REPLICAS, threads=dict.fromkeys(REPLICAS, 1), env=env,
            command=lambda service: [*command, service],
        ) as system,
        httpx.AsyncClient(base_url=system.api_url, headers=system.headers, timeout=30.0) as client,
    ):  # fmt: skip
        ways = [(0, "off", rollout_s + learner_s), (0, "on", rollout_s + SHARE * learner_s)]
        for eta, overlap, ideal in [*ways, (1, "off", max(rollout_s, learner_s))]:
            report = await run_job(client, job(model, folder / "data", steps, eta, overlap))
            seconds = step_seconds(system.runs / report["job_id"])
            line = {
                "bench": "overlap", "max_staleness": eta, "overlap": overlap,
                "rollout_s": rollout_s, "learner_s": learner_s,
                "step_s": round(seconds, 3), "of_ideal": round(ideal / seconds, 3),
            }  # fmt: skip
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


def step_seconds(run: Path) -> float:
    """The mean time from one step's end to the next one's, once the window is full and while it is."""
    rows = pq.read_table(run / "metrics.parquet").to_pylist()
    rates = {row["step"]: row["value"] for row in rows if row["name"] == "throughput/groups" and not row["source"]}
    kept = [GROUPS / rate for step, rate in sorted(rates.items()) if step > FIRST]
    return statistics.mean(kept)


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollout", type=float, default=1.0)
    parser.add_argument("--learner", type=float, default=0.8)
    parser.add_argument("--steps", type=int, default=20)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), wanted.rollout, wanted.learner, wanted.steps))


if __name__ == "__main__":
    main()
