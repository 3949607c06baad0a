"""The whole system as a user runs it: real servers, the five services as processes, real gradients, real deaths."""

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
import pytest

from triune.demo.dataset import make
from triune.demo.warm_start import Recipe, Stage, warm_start
from triune.local.deployment import Deployment, deployed

pytestmark = [pytest.mark.loop, pytest.mark.timeout(600)]

LIMIT_S = 240.0
B, N, STEPS = 8, 4, 8


class System:
    """A deployment with a tiny model and a small drawn data set."""

    def __init__(self, deployment: Deployment, model: Path, data: Path) -> None:
        self.deployment, self.model, self.data = deployment, model, data
        self.client = httpx.Client(base_url=deployment.api_url, timeout=30.0)

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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    short = Stage(steps=4, learning_rate=1e-3, wrong_share=0.0, warmup_steps=0)
    return warm_start(tmp_path_factory.mktemp("model"), recipe=Recipe(clean=short, mixed=short))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make(folder, train_per_task=24, held_out_per_task=4)
    return folder


@contextlib.asynccontextmanager
async def running(tmp_path: Path, model: Path, data: Path) -> AsyncIterator[System]:
    replicas = {"data": 1, "rollout": 1, "reward": 1, "learner": 1, "monitor": 1}
    threads = dict.fromkeys(replicas, 1)
    async with deployed(tmp_path / "runs", tmp_path / "local", replicas=replicas, threads=threads) as deployment:
        system = System(deployment, model, data)
        with system.client:
            yield system


def agrees(report: dict[str, Any], *, steps: int = STEPS) -> None:
    """The invariant, in total and by source, and nothing trained twice."""
    groups = report["groups"]
    assert groups["published"] == groups["trained"] + groups["void"]
    assert groups["trained"] == steps * B
    for name, source in report["sources"].items():
        of = source["groups"]
        assert of["published"] == of["trained"] + of["void"], name


async def test_jobs_survive_the_death_of_learner_rollout_reward_and_data_and_nothing_is_left_behind(
    tmp_path: Path, model: Path, data: Path
) -> None:
    async with running(tmp_path, model, data) as system:
        for service in ("learner", "rollout", "reward", "data"):
            job = system.submit()
            await system.until(job, lambda details: details["step"] >= 4)
            system.kill(service)
            report = await system.finished(job)
            assert report["state"] == "done"
            agrees(report)
            assert report["staleness"]["max"] == 0
            trained = system.trained(job)
            assert len(trained) == len(set(trained)) == STEPS * B
            assert all(source["n"] == 4 for source in report["sources"].values())
        mine = [child.pid for child in psutil.Process().children(recursive=True)]
        assert mine
    left = [child for child in psutil.Process().children(recursive=True) if child.pid in mine]
    assert not left, f"processes left behind: {left}"


async def test_off_policy_stays_within_its_bound_while_monitor_nats_and_redis_die(
    tmp_path: Path, model: Path, data: Path
) -> None:
    async with running(tmp_path, model, data) as system:
        job = system.submit(algorithm={"max_staleness": 2, "updates_per_step": 2})
        await system.until(job, lambda details: details["step"] >= 2)
        system.kill("monitor")
        await system.until(job, lambda details: details["step"] >= 4)
        assert system.deployment.servers is not None
        system.deployment.servers.nats.kill()
        system.deployment.servers.redis.kill()
        report = await system.finished(job)
        agrees(report)
        assert 0 < report["staleness"]["max"] <= report["staleness"]["bound"] == 2
        folder = system.deployment.runs / job
        assert (folder / "curves.png").stat().st_size > 0
        steps = {
            row["step"]
            for row in pq.read_table(folder / "metrics.parquet").to_pylist()
            if row["name"] == "learner/loss"
        }
        assert steps == set(range(1, STEPS + 1))


async def test_a_job_is_stopped_and_refused_ones_list_every_mistake(tmp_path: Path, model: Path, data: Path) -> None:
    async with running(tmp_path, model, data) as system:
        job = system.submit(total_steps=500)
        await system.until(job, lambda details: details["step"] >= 2)
        assert system.client.post(f"/v1/jobs/{job}/stop").status_code == 200
        report = await system.finished(job)
        assert report["state"] == "stopped"
        groups = report["groups"]
        assert groups["published"] == groups["trained"] + groups["void"]
        (tmp_path / "bad.parquet").write_text("not parquet")
        wrong = {"model": str(tmp_path / "none"), "total_steps": 1, "data": {"train": [str(tmp_path / "bad.parquet")]}}
        refused = system.client.post("/v1/jobs", json={**wrong, "totl": 1})
        assert refused.status_code == 422
        refused = system.client.post("/v1/jobs", json=wrong)
        assert refused.status_code == 422
        assert len(refused.json()["mistakes"]) == 2
