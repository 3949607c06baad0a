"""Three replicas as processes over real NATS and Redis; one is killed with `kill -9` in the middle of its work."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.reward.config import RewardConfig
from shared.blobs.store import BlobStore
from shared.bus.nats.bus import NatsBus
from shared.bus.port import JournalReader
from shared.jobs.document import parse_job
from shared.jobs.record import JobRecord, JobStore
from shared.messages import RewardSpec, Scored
from tests.fakes import eventually, wait_gone
from tests.reward.groups import group
from triune.local.process import free_port
from triune.local.servers import NatsServer, RedisServer

Process = subprocess.Popen[bytes]
GROUPS = 60
SLOW = RewardSpec(verifier="misbehave", answer="", ground_truth="", format_ratio=0.0)


@contextlib.asynccontextmanager
async def _replicas(
    count: int, environment: dict[str, str], logs: Path
) -> AsyncIterator[list[subprocess.Popen[bytes]]]:
    with contextlib.ExitStack() as stack:
        started = []
        for number in range(count):
            own = {"TRIUNE_REPLICA": f"reward-{number}", "TRIUNE_HEALTH_PORT": str(free_port())}
            log = stack.enter_context((logs / f"reward-{number}.log").open("wb"))
            command = [sys.executable, "-m", "services.reward"]
            started.append(subprocess.Popen(command, env={**environment, **own}, stderr=log, stdout=log))  # noqa: ASYNC220
        try:
            yield started
        finally:
            for process in started:
                process.terminate()
            for process in started:
                await asyncio.to_thread(process.wait, 30)


@pytest.mark.nats
@pytest.mark.redis
async def test_what_a_killed_replica_held_is_scored_by_the_others(
    own_nats_server: NatsServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    blobs = (tmp_path / "blobs").as_uri()
    environment = {**os.environ, "NATS_URL": own_nats_server.url, "REDIS_URL": redis_server.url}
    environment |= {"TRIUNE_BLOBS": blobs, "TRIUNE_RUNS": str(tmp_path)}
    bus = await NatsBus.connect(own_nats_server.url, blobs=BlobStore(blobs))
    await _start_job(bus)
    async with _replicas(3, environment, tmp_path) as processes:
        for ordinal in range(GROUPS):
            one = group(["sleep"] * 4, ordinal=ordinal, reward=SLOW)
            await bus.publish("completions", "job-1", "train", one, f"completed/{ordinal}")
        reader = await bus.read_journal("job-1", "train")
        (first,) = await _fetch(reader, 1)
        victim = int(first.replica.removeprefix("reward-"))
        processes[victim].kill()
        records = [first, *await _fetch(reader, GROUPS - 1)]
        await eventually(lambda: _is_done(bus), 30.0)
    assert len({record.replica for record in records}) > 1
    scored = [record.prompt.ordinal for record in records]
    assert set(scored) == set(range(GROUPS))
    # What the dead one had published but not acked may be there twice: the lowest sequence counts.
    assert len(scored) <= GROUPS + RewardConfig().groups_in_flight
    assert all(reward.final == 1.0 for record in records for reward in record.rewards)
    await bus.close()
    wait_gone([process.pid for process in processes])


async def _start_job(bus: NatsBus) -> None:
    jobs = JobStore(bus)
    spec = parse_job({"model": "m", "total_steps": 1, "data": {"train": ["x"]}})
    await jobs.create(JobRecord(id="job-1", spec=spec, state="running", created_at=0.0))
    await bus.work("completions", "job-1", "train")


async def _fetch(reader: JournalReader, ordinals: int) -> list[Scored]:
    """Records of so many different ordinals."""
    found: list[Scored] = []
    end = time.monotonic() + 120
    while len({record.prompt.ordinal for record in found}) < ordinals:
        assert time.monotonic() < end, f"{len(found)} records, expected {ordinals}"
        for entry in await reader.fetch(1 if ordinals == 1 else GROUPS, 1.0):
            assert isinstance(entry.message, Scored)
            found.append(entry.message)
    return found


async def _is_done(bus: NatsBus) -> bool:
    return await bus.waiting("completions", "job-1", "train") == (0, 0)
