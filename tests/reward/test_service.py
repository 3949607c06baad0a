"""The service on the bus: what becomes of it when its workers cannot be started, or a fault of ours ends a lane."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from services.reward.app import build
from services.reward.config import RewardConfig
from services.reward.workers.pool import WORKER, Pool
from shared.blobs.store import BlobStore
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.jobs.record import JobStore
from shared.ledger.memory import MemoryLedger
from shared.runtime.settings import Settings
from shared.service import Ports, Service
from tests.fakes import eventually
from tests.limits import open_files

pytestmark = pytest.mark.asyncio


def _service(folder: Path) -> tuple[Service, Ports]:
    bus = MemoryBus(MemoryServer())
    blobs = BlobStore((folder / "blobs").as_uri())
    ports = Ports(Settings(replica="reward-1", runs=folder), bus, MemoryLedger(), blobs, JobStore(bus))
    return build(ports, RewardConfig(workers=2)), ports


async def test_a_service_whose_workers_cannot_be_started_waits_and_says_so(tmp_path: Path) -> None:
    service, ports = _service(tmp_path)
    (loop,) = (asyncio.ensure_future(one()) for one in service.loops)
    with open_files(0):
        await eventually(lambda: _true(ports.retry.waiting_for == WORKER))
        assert not service.status.ready and not loop.done()
    await eventually(lambda: _true(service.status.ready))
    assert ports.retry.waiting_for == ""
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop


async def test_a_fault_of_ours_in_a_lane_ends_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(pool: Pool) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Pool, "_take", fails)
    service, _ = _service(tmp_path)
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(30):
            await service.loops[0]()
    assert [repr(error) for error in raised.value.exceptions] == ["RuntimeError('a fault of ours')"]


async def _true(value: bool) -> bool:
    return value
