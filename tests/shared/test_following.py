"""A service works on the job that is active, whatever it has seen of the records in between."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.errors import Corrupt, Refused, Unavailable, WorkFault
from shared.jobs import following
from shared.jobs.document import parse_job
from shared.jobs.following import FAULTS_TO_FAIL, ActiveJob, follow_active
from shared.jobs.record import MOVES, Fault, JobRecord, JobStore, State, active_of
from tests.fakes import eventually

SPEC = parse_job({"model": "m", "total_steps": 1, "data": {"train": ["x"]}})


def record(job: str = "a", state: str = "queued", created_at: float = 1.0) -> JobRecord:
    return JobRecord(id=job, spec=SPEC, state=state, created_at=created_at)  # type: ignore[arg-type]


@pytest.fixture
def jobs() -> JobStore:
    return JobStore(MemoryBus(MemoryServer()))


def test_the_oldest_job_that_has_started_and_not_ended_is_the_active_one() -> None:
    records = [record("d", "queued", 0), record("c", "paused", 3), record("b", "stopping", 2), record("a", "done", 1)]
    assert active_of(records) == records[2]
    assert active_of(records[3:]) is None


async def test_work_follows_the_active_job_and_is_cancelled_when_it_ends(jobs: JobStore) -> None:
    seen: list[str] = []

    async def work(job: ActiveJob) -> None:
        seen.append(job.id)
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(f"{job.id} over")

    async def has(text: str) -> bool:
        return text in seen

    following = asyncio.create_task(follow_active(jobs, work, service="test"))
    await jobs.create(record("a", "running"))
    await eventually(lambda: has("a"))
    await jobs.move("a", "done")
    await eventually(lambda: has("a over"))
    await jobs.create(record("b", "running"))
    await eventually(lambda: has("b"))
    following.cancel()
    await asyncio.wait({following})
    assert seen == ["a", "a over", "b", "b over"]


async def test_a_job_that_becomes_active_between_two_looks_is_worked_on(jobs: JobStore) -> None:
    """The end of the job before it was never seen: two jobs in a queue stood still."""
    seen: list[str] = []

    async def work(job: ActiveJob) -> None:
        seen.append(job.id)
        await asyncio.Event().wait()

    async def has(text: str) -> bool:
        return text in seen

    await jobs.create(record("a", "running"))
    await jobs.create(record("b", "running"))
    following = asyncio.create_task(follow_active(jobs, work, service="test"))
    await eventually(lambda: has("a"))
    await jobs.move("a", "done")
    await eventually(lambda: has("b"))
    following.cancel()
    await asyncio.wait({following})
    assert seen == ["a", "b"]


async def test_a_sentence_raised_on_purpose_fails_the_job_and_not_the_service(jobs: JobStore) -> None:
    async def work(job: ActiveJob) -> None:
        raise Corrupt("the journal has a gap at 5")

    async def failed() -> bool:
        found = await jobs.get("a")
        return found is not None and found.state == "failed" and found.error == "the journal has a gap at 5"

    await jobs.create(record("a", "running"))
    following = asyncio.create_task(follow_active(jobs, work, service="test"))
    await eventually(failed)
    assert not following.done()
    following.cancel()
    await asyncio.wait({following})


@contextlib.asynccontextmanager
async def followed(jobs: JobStore, work: Any, **arguments: Any) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(follow_active(jobs, work, service="test", **arguments))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


MOMENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from(["queued", "running", "paused", "stopping", "stopped", "done", "failed", "forgotten"]),
        st.integers(0, 12),  # how often the follower gets its turn before the next write
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(MOMENTS)
def test_whatever_is_written_between_two_looks_the_active_job_is_worked_on_alone(
    moments: list[tuple[str, State, int]],
) -> None:
    asyncio.run(_follow(moments))


async def _follow(moments: list[tuple[str, State, int]]) -> None:
    jobs = JobStore(MemoryBus(MemoryServer()))
    at_work: list[str] = []

    async def work(job: ActiveJob) -> None:
        assert not at_work, "two works at once"
        at_work.append(job.id)
        try:
            while True:
                await job.changed(60.0)
                assert job.record.id == job.id
        finally:
            at_work.remove(job.id)

    async with followed(jobs, work) as following_:
        for place, (job, wish, turns) in enumerate(moments):
            await _write(jobs, job, wish, place)
            for _ in range(turns):
                await asyncio.sleep(0)
        active = await jobs.active()
        wanted = [] if active is None else [active.id]

        async def settled() -> bool:
            return at_work == wanted

        await eventually(settled)
        assert not following_.done()


async def _write(jobs: JobStore, job: str, wish: str, place: int) -> None:
    """Make the wish come true if it is legal; a forgotten job's id stays taken."""
    found = await jobs.get(job)
    if wish == "forgotten":
        if found is not None and not MOVES[found.state]:
            await jobs.forget(job)
    elif found is None:
        with contextlib.suppress(Refused):
            await jobs.create(record(job, created_at=float(place)))
    elif wish in MOVES[found.state]:
        await jobs.move(job, wish)  # type: ignore[arg-type]


async def test_a_change_of_the_record_reaches_the_work(jobs: JobStore) -> None:
    seen: list[int] = []

    started = asyncio.Event()

    async def work(job: ActiveJob) -> None:
        started.set()
        while True:
            await job.changed(60.0)
            seen.append(job.record.checkpoint_wanted)

    async def has_seen() -> bool:
        return 1 in seen

    await jobs.create(record("a", "running"))
    async with followed(jobs, work):
        await started.wait()
        await jobs.update("a", lambda old: msgspec.structs.replace(old, checkpoint_wanted=1))
        await eventually(has_seen)


async def test_a_fault_ends_the_service_twice_and_the_third_time_the_job(jobs: JobStore) -> None:
    lives = 0

    async def work(job: ActiveJob) -> None:
        nonlocal lives
        lives += 1
        raise ZeroDivisionError(f"life {lives}")

    async def failed() -> bool:
        found = await jobs.get("a")
        return found is not None and found.state == "failed"

    await jobs.create(record("a", "running"))
    for life in range(1, FAULTS_TO_FAIL):
        with pytest.raises(
            WorkFault, match=f"test ended by a fault in the work on job a: ZeroDivisionError: life {life}"
        ):
            await follow_active(jobs, work, service="test")
    async with followed(jobs, work) as following_:
        await eventually(failed)
        assert not following_.done()
    found = await jobs.get("a")
    assert found is not None
    assert found.error == "test ended 3 times in the same way: ZeroDivisionError: life 3"
    assert [fault.service for fault in found.faults] == ["test"] * 3


async def test_faults_of_different_kinds_do_not_add_up(jobs: JobStore) -> None:
    lives = 0

    async def work(job: ActiveJob) -> None:
        nonlocal lives
        lives += 1
        if lives % 2:
            raise ZeroDivisionError
        raise KeyError("x")

    await jobs.create(record("a", "running"))
    for _ in range(4):
        with pytest.raises(WorkFault):
            await follow_active(jobs, work, service="test")
    found = await jobs.get("a")
    assert found is not None
    assert found.state == "running"


async def test_a_resumed_job_starts_with_no_fault(jobs: JobStore) -> None:
    await jobs.create(record("a", "running"))
    fault = Fault(service="test", error="E", where="x", at=0.0)
    await jobs.update("a", lambda old: msgspec.structs.replace(old, faults=[fault]))
    await jobs.move("a", "failed", "E")
    assert (await jobs.move("a", "queued")).faults == []


async def test_a_peer_that_is_away_ends_the_service_and_blames_nobody(jobs: JobStore) -> None:
    async def work(job: ActiveJob) -> None:
        raise Unavailable("the disk is away")

    await jobs.create(record("a", "running"))
    for _ in range(FAULTS_TO_FAIL + 1):
        with pytest.raises(Unavailable, match="the disk is away"):
            await follow_active(jobs, work, service="test")
    found = await jobs.get("a")
    assert found is not None
    assert (found.state, found.faults) == ("running", [])


async def test_a_service_that_does_not_leave_an_ended_job_is_ended(
    jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ASTRAY_S", 0.05)
    monkeypatch.setattr(following, "_GUARD_S", 0.01)
    started, release, ends = asyncio.Event(), asyncio.Event(), []

    async def stubborn(job: ActiveJob) -> None:
        started.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async def has_ended() -> bool:
        return bool(ends)

    await jobs.create(record("a", "running"))
    async with followed(jobs, stubborn, end=lambda at, wanted: ends.append((at, wanted))):
        await started.wait()
        await jobs.move("a", "done")
        await jobs.create(record("b", "running"))
        await eventually(has_ended)
        release.set()
    assert ends[0] == ("a", "b")
