"""Job records: legal moves, compare-and-set, and the lease."""

import asyncio

import pytest

from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.errors import Refused
from shared.jobs.document import parse_job
from shared.jobs.lease import while_leading
from shared.jobs.record import MOVES, IllegalMove, JobRecord, JobStore, UnknownJob
from tests.fakes import eventually

SPEC = parse_job({"model": "m", "total_steps": 1, "data": {"train": ["x"]}})


def record(job: str = "a", state: str = "queued") -> JobRecord:
    return JobRecord(id=job, spec=SPEC, state=state, created_at=1.0)  # type: ignore[arg-type]


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus(MemoryServer())


@pytest.fixture
def jobs(bus: MemoryBus) -> JobStore:
    return JobStore(bus)


def test_an_ended_job_has_no_way_back_but_a_failed_one_can_be_resumed() -> None:
    assert MOVES["done"] == MOVES["stopped"] == ()
    assert MOVES["failed"] == ("queued",)


@pytest.mark.parametrize(
    ("start", "to"), [(start, to) for start, ends in MOVES.items() for to in MOVES if to not in ends and to != start]
)
async def test_a_move_that_is_not_in_the_table_is_refused(jobs: JobStore, start: str, to: str) -> None:
    await jobs.create(record(state=start))
    with pytest.raises(IllegalMove, match=f"is {start}; it cannot become {to}"):
        await jobs.move("a", to)  # type: ignore[arg-type]


async def test_a_job_id_is_never_used_twice(jobs: JobStore) -> None:
    await jobs.create(record())
    with pytest.raises(Refused):
        await jobs.create(record())


async def test_two_writers_at_once_both_take_effect(bus: MemoryBus, jobs: JobStore) -> None:
    import msgspec

    await jobs.create(record())

    def count(old: JobRecord) -> JobRecord:
        return msgspec.structs.replace(old, checkpoint_wanted=old.checkpoint_wanted + 1)

    await asyncio.gather(*(JobStore(bus).update("a", count) for _ in range(20)))
    found = await jobs.get("a")
    assert found is not None
    assert found.checkpoint_wanted == 20


async def test_the_ordinal_starts_at_zero_and_is_kept(jobs: JobStore) -> None:
    assert await jobs.ordinal("a") == 0
    await jobs.set_ordinal("a", 17)
    assert await jobs.ordinal("a") == 17


async def test_a_second_instance_waits_until_the_first_gives_its_lease_back(bus: MemoryBus) -> None:
    order: list[str] = []
    release = asyncio.Event()

    async def first() -> None:
        order.append("first")
        await release.wait()

    async def second() -> None:
        order.append("second")

    async def started() -> bool:
        return order == ["first"]

    one = asyncio.create_task(while_leading(bus, "learner", "one", first))
    await eventually(started)
    two = asyncio.create_task(while_leading(bus, "learner", "two", second))
    await asyncio.wait({two}, timeout=0.1)
    assert order == ["first"]
    release.set()
    await one
    await asyncio.wait_for(two, 10)
    assert order == ["first", "second"]


async def test_a_wildcard_is_no_job_id(jobs: JobStore) -> None:
    await jobs.create(record())
    assert await jobs.get("*") is None
    assert await jobs.get("a.b") is None
    with pytest.raises(UnknownJob):
        await jobs.move("*", "stopped")
