"""The whole system as a user runs it: real servers, the five services as processes, real gradients, real deaths."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from services.monitor.history.queries import reading
from tests.loop.system import STEPS, B, agrees, running

pytestmark = [pytest.mark.loop, pytest.mark.timeout(600)]


async def test_jobs_survive_the_death_of_learner_rollout_reward_and_data(
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


async def test_a_step_that_was_begun_before_all_its_groups_had_come_is_made_again_to_the_same_bits(
    tmp_path: Path, model: Path, data: Path
) -> None:
    """By a learner that died, and from the run folder. Two groups at a time are generated, so that some come first."""
    async with running(tmp_path, model, data) as system:
        learner = {"overlap": "on", "checkpoint_every": 3}
        job = system.submit(learner=learner, rollout={"groups_in_flight": 2})
        await system.until(job, lambda details: details["step"] >= 4)
        system.kill("learner")
        agrees(await system.finished(job))
        folder = system.deployment.runs / job
        with reading(folder) as reader:
            assert reader is not None
            steps = reader.steps()
        assert {step["incarnation"] for step in steps} == {0}
        assert any(step["portions"] for step in steps)
        said = await asyncio.to_thread(replay, system.deployment.runs, job)
        assert [(line["step"], line["different"]) for line in said] == [(7, {}), (8, {})]
        assert said[-1]["weights"]["here"] == said[-1]["weights"]["announced"]


def replay(runs: Path, job: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "triune", "replay", job, "--json"]
    answer = subprocess.run(command, capture_output=True, env=os.environ | {"TRIUNE_RUNS": str(runs)}, check=False)
    assert answer.returncode == 0, answer.stderr.decode()
    return [json.loads(line) for line in answer.stdout.splitlines() if line.startswith(b"{")]


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
