"""The whole loop over real processes: on-policy against off-policy, and the services' own share of the time.

`python bench/loop.py [--steps N]` prints JSON lines. Rollout and learner get one compute thread each, so that on-policy
they take turns (T_rollout + T_learner a step) and off-policy they run side by side (at best max(T_rollout, T_learner)).
The model is random, so every completion runs to its limit of tokens. Jobs of both kinds take turns.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from triune.demo.dataset import make
from triune.demo.warm_start import Recipe, Stage, warm_start
from triune.local.deployment import deployed

LIMIT_S = 300.0
REPLICAS = {"data": 1, "rollout": 1, "reward": 1, "learner": 1, "monitor": 1}


def job(model: Path, data: Path, steps: int, max_staleness: int) -> dict[str, Any]:
    """32 prompts × 8 completions a step, as the demo's."""
    return {
        "name": f"bench-{max_staleness}",
        "model": str(model),
        "total_steps": steps,
        "data": {"train": [str(data / "train")], "cot_prompts": False},
        "algorithm": {"max_staleness": max_staleness, "importance": "on"},
        "sampling": {"max_new_tokens": 24},
        "learner": {"checkpoint_every": 0},
        "optimizer": {"learning_rate": 1e-6},
    }


async def run_job(client: httpx.AsyncClient, document: dict[str, Any], limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Submit, wait until it is on file, return its report."""
    name = (await client.post("/v1/jobs", json=document)).raise_for_status().json()["job_id"]
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            details = (await client.get(f"/v1/jobs/{name}")).json()
            if details["state"] == "failed":
                raise RuntimeError(details["error"])
            if details["on_file"]:
                return dict(details["report"])
        await asyncio.sleep(0.2)
    raise RuntimeError(f"job {name} did not end within {limit_s} s")


def seconds(report: dict[str, Any]) -> dict[str, float]:
    """Per step: wall, generation and update seconds, from the report's shares of the training's wall time."""
    update = report["timing"]["learner_step_s"] / report["steps"]
    wall = update / report["shares"]["update"]
    return {"wall": wall, "rollout": report["shares"]["generation"] * wall, "learner": update}


async def measure(folder: Path, steps: int, rounds: int) -> None:
    """Print a line for each mode and one for their ratio."""
    stage = Stage(steps=2, learning_rate=1e-4, wrong_share=0.0, warmup_steps=0)
    model = await asyncio.to_thread(warm_start, folder, None, Recipe(clean=stage, mixed=stage))
    await asyncio.to_thread(make, folder / "data", train_per_task=200, held_out_per_task=1)
    reports: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    threads = dict.fromkeys(REPLICAS, 1)
    async with (
        deployed(folder / "runs", folder / "local", replicas=REPLICAS, threads=threads) as system,
        httpx.AsyncClient(base_url=system.api_url, headers=system.headers, timeout=30.0) as client,
    ):
        await run_job(client, job(model, folder / "data", 3, 0))  # imports and first touches are not measured
        for _ in range(rounds):
            for eta in reports:
                reports[eta].append(await run_job(client, job(model, folder / "data", steps, eta)))
    medians = {eta: _median([seconds(report) for report in found]) for eta, found in reports.items()}
    for eta, found in reports.items():
        overhead = statistics.median(report["shares"]["overhead"] for report in found)
        _line(
            case=f"max_staleness {eta}",
            overhead=round(overhead, 3),
            **{k: round(v, 3) for k, v in medians[eta].items()},
        )
    ideal = max(medians[0]["rollout"], medians[0]["learner"]) / (medians[0]["rollout"] + medians[0]["learner"])
    ratio = medians[1]["wall"] / medians[0]["wall"]
    _line(
        case="async against on-policy", ratio=round(ratio, 3), ideal=round(ideal, 3), of_ideal=round(ideal / ratio, 3)
    )


def _median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _line(**values: Any) -> None:
    sys.stdout.write(json.dumps({"bench": "loop", **values}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(measure(Path(made), options.steps, options.rounds))
