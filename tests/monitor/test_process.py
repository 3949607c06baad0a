"""The monitor as a process of its own, over real servers, killed with kill -9 in the middle of a run."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.bus.nats.bus import NatsBus
from shared.jobs.record import JobStore
from shared.messages import message_id
from shared.runtime.metrics import LABELS
from tests.fakes import eventually
from tests.monitor import runs
from tests.monitor.stage import of_job, write_data
from tests.monitor.theatre import free_port
from triune.local.servers import NatsServer, RedisServer

pytestmark = [pytest.mark.nats, pytest.mark.redis]
ROOT = Path(__file__).parents[2]
LIMIT_S = 40.0
STEPS, GROUPS = 12, 8


class Process:
    """A monitor that can be killed and started again."""

    def __init__(self, folder: Path, nats: str, redis: str) -> None:
        self.port = free_port()
        addresses = {"NATS_URL": nats, "REDIS_URL": redis, "TRIUNE_RUNS": str(folder / "runs")}
        self._env = {**os.environ, **addresses, "TRIUNE_API_PORT": str(self.port), "OMP_NUM_THREADS": "1"}
        self._log = folder / "monitor.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "services.monitor"]
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._env, stderr=log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)


@pytest.fixture
async def monitor(tmp_path: Path, own_nats_server: NatsServer, redis_server: RedisServer) -> AsyncIterator[Process]:
    write_data(tmp_path / "train.parquet")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    process = Process(tmp_path, own_nats_server.url, redis_server.url)
    yield process
    assert await asyncio.to_thread(process.stop) == 0


def check_metrics(text: str) -> None:
    """What is exported: the last step's values by source and task, and no label but the four."""
    found = {
        family.name: family for family in text_string_to_metric_families(text) if family.name.startswith("triune_")
    }
    (reward,) = found["triune_reward"].samples
    assert (reward.value, reward.labels["source"], reward.labels["task"]) == (0.5, "sums", "math")
    labels = {label for family in found.values() for sample in family.samples for label in sample.labels}
    assert {label for label in labels if not label.startswith("otel_scope_")} <= set(LABELS)


async def test_killed_in_the_middle_it_goes_on_without_hole_or_double_count(
    monitor: Process, own_nats_server: NatsServer, tmp_path: Path
) -> None:
    bus = await NatsBus.connect(own_nats_server.url)
    jobs = JobStore(bus)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{monitor.port}", timeout=10.0) as http:

        async def is_ready() -> bool:
            try:
                return (await http.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(is_ready, LIMIT_S)
        document = {
            "model": str(tmp_path / "model"),
            "total_steps": STEPS,
            "data": {"train": [str(tmp_path / "train.parquet")]},
        }
        answer = await http.post("/v1/jobs", json=document)
        assert answer.status_code == 201, answer.text
        job = answer.json()["job_id"]

        async def is_running() -> bool:
            record = await jobs.get(job)
            return record is not None and record.state == "running"

        await eventually(is_running, LIMIT_S)
        for step in range(STEPS):
            if step in (STEPS // 3, 2 * STEPS // 3):
                await asyncio.to_thread(monitor.kill)
                monitor.start()  # training goes on meanwhile
            ordinals = range(step * GROUPS, (step + 1) * GROUPS)
            for ordinal in ordinals:
                number = message_id(job, "train", None, ordinal)
                await bus.publish("scored", job, "train", of_job(runs.group(ordinal), job), number)
            await bus.announce(of_job(runs.step_done(step + 1, ordinals), job))  # type: ignore[arg-type]
        await jobs.set_ordinal(job, STEPS * GROUPS)
        await eventually(is_ready, LIMIT_S)
        await jobs.move(job, "done")
        report_path = tmp_path / "runs" / job / "report.json"

        async def is_final() -> bool:
            return report_path.exists() and json.loads(report_path.read_text())["state"] == "done"

        await eventually(is_final, LIMIT_S)
        groups = {"published": STEPS * GROUPS, "trained": STEPS * GROUPS, "void": 0, "duplicates": 0}
        assert json.loads(report_path.read_text())["groups"] == groups
        found = await http.get(f"/v1/jobs/{job}/metrics", params={"name": "groups", "source": "sums"})
        (series,) = found.json()["series"]
        assert [(p["step"], p["value"]) for p in series["points"]] == [(s, float(GROUPS)) for s in range(1, STEPS + 1)]
        check_metrics((await http.get("/metrics")).text)
        samples = {path.name for path in (tmp_path / "runs" / job / "samples").iterdir()}
        assert samples == {f"train-{step:06d}.parquet" for step in range(1, STEPS + 1)}
    await bus.close()
