"""The whole system as a user runs it, on a tiny model and a small drawn data set."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq

from triune.local.deployment import Deployment, deployed

LIMIT_S = 240.0
B, N, STEPS = 8, 4, 8


class System:
    """A deployment with a tiny model and a small drawn data set."""

    def __init__(self, deployment: Deployment, model: Path, data: Path) -> None:
        self.deployment, self.model, self.data = deployment, model, data
        self.client = httpx.Client(base_url=deployment.api_url, headers=deployment.headers, timeout=30.0)

    def submit(self, **changes: Any) -> str:
        job = {
            "name": "loop",
            "model": str(self.model),
            "total_steps": STEPS,
            "data": {"train": [str(self.data / "train")], "held_out": [str(self.data / "test")], "cot_prompts": False},
            "algorithm": {"prompts_per_step": B, "samples_per_prompt": N},
            "sampling": {"max_new_tokens": 12},
            "optimizer": {"learning_rate": 1e-4},
            "learner": {"checkpoint_every": 3},
        }
        for key, value in changes.items():
            job[key] = {**job[key], **value} if isinstance(job.get(key), dict) else value  # type: ignore[dict-item]
        response = self.client.post("/v1/jobs", json=job)
        assert response.status_code == 201, response.text
        return str(response.json()["job_id"])

    def show(self, job: str) -> dict[str, Any]:
        return dict(self.client.get(f"/v1/jobs/{job}").json())

    async def until(self, job: str, condition: Any) -> dict[str, Any]:
        """Poll the job until `condition(details)`; a job that failed fails the test with its sentence."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                details = self.show(job)
                assert details["state"] != "failed", details["error"]
                if condition(details):
                    return details
            assert time.monotonic() < deadline, f"job {job} did not get there within {LIMIT_S} s"
            await asyncio.sleep(0.05)

    async def finished(self, job: str) -> dict[str, Any]:
        """The report in the run folder of a job that has ended."""
        await self.until(job, lambda details: details["on_file"])
        return dict(json.loads((self.deployment.runs / job / "report.json").read_text()))

    def kill(self, service: str) -> None:
        os.kill(self.deployment.supervisor.pids(service)[0], signal.SIGKILL)

    def trained(self, job: str) -> list[int]:
        """Ordinals of the samples on file that were trained on."""
        return [
            row["ordinal"]
            for file in sorted((self.deployment.runs / job / "samples").glob("*.parquet"))
            for row in pq.read_table(file).to_pylist()
            if row["kind"] == "train" and row["state"] == "trained"
        ]


@contextlib.asynccontextmanager
async def running(tmp_path: Path, model: Path, data: Path, **options: Any) -> AsyncIterator[System]:
    """The deployment while the block runs; none of its processes outlives the block."""
    replicas = {"data": 1, "rollout": 1, "reward": 1, "learner": 1, "monitor": 1}
    threads = dict.fromkeys(replicas, 1)
    before = set(psutil.Process().children(recursive=True))  # those of other tests are none of ours
    async with deployed(
        tmp_path / "runs", tmp_path / "local", replicas=replicas, threads=threads, **options
    ) as deployment:
        system = System(deployment, model, data)
        with system.client:
            yield system
        started = set(psutil.Process().children(recursive=True)) - before
        assert started
    _, left = psutil.wait_procs(started, timeout=10.0)  # those whose parent was killed end by themselves
    assert not left, f"processes left behind: {left}"


def agrees(report: dict[str, Any], *, steps: int = STEPS) -> None:
    """The invariant, in total and by source, and nothing trained twice."""
    groups = report["groups"]
    assert groups["published"] == groups["trained"] + groups["void"]
    assert groups["trained"] == steps * B
    for name, source in report["sources"].items():
        of = source["groups"]
        assert of["published"] == of["trained"] + of["void"], name
