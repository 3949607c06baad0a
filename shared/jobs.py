"""The truth on jobs: records in the bus's key-value bucket, written by compare-and-set.

Keys: `job.<id>` the record, `ordinal.<id>` data's next ordinal, `active` the id of the one job that is worked on,
`lease.<service>` who is the one active instance of data, learner or monitor.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from shared.bus import Bus
from shared.errors import Refused, TriuneError, Unavailable, one_error
from shared.job import JobSpec
from shared.log import get_logger
from shared.messages import JOB_ID_PATTERN, JobChanged, Message

State = Literal["queued", "running", "paused", "stopping", "stopped", "done", "failed"]

MOVES: dict[State, tuple[State, ...]] = {
    "queued": ("running", "stopped", "failed"),
    "running": ("paused", "stopping", "done", "failed"),
    "paused": ("running", "stopping", "failed"),
    "stopping": ("stopped", "failed"),
    "failed": ("queued",),
    "stopped": (),
    "done": (),
}
"""The legal moves; `failed → queued` is resume: the job continues from its last checkpoint."""
ACTIVE: tuple[State, ...] = ("running", "paused", "stopping")
ENDED: tuple[State, ...] = ("stopped", "done", "failed")

POLL_S = 0.5
LEASE_S = 5.0


class IllegalMove(TriuneError):
    """A job cannot go from its state to the wanted one."""


class Change(Message, frozen=True, kw_only=True):
    """A PATCH. `since` is the first ordinal (source weights) or step (the others) that it holds for.

    None until the service that it concerns (data: source weights; learner: the others) has fixed it, which it does
    before the change takes effect; so a replay applies it at the same place.
    """

    key: str
    value: float
    requested_at: float
    since: int | None = None


class JobRecord(Message, frozen=True, kw_only=True):
    """One job."""

    id: str
    spec: JobSpec
    state: State
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    changes: list[Change] = []
    error: str = ""
    seal_wanted: bool = False  # the learner ends early: data seals the order as at a stop
    sealed: int | None = None  # data publishes no ordinal at or past it; written by data when it is asked to seal
    checkpoint_wanted: int = 0  # counts the requests; the learner remembers how many it has answered


def _move(record: JobRecord, state: State, error: str) -> JobRecord:
    if state not in MOVES[record.state]:
        raise IllegalMove(f"job {record.id} is {record.state}; it cannot become {state}")
    now = time.time()
    changes: dict[str, object] = {"state": state, "error": error}
    if state == "running" and record.started_at is None:
        changes["started_at"] = now
    if state in ENDED:
        changes["ended_at"] = now
    return msgspec.structs.replace(record, **changes)


class JobStore:
    """Reads and writes job records. Raises Unavailable when the bus does not answer."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def create(self, record: JobRecord) -> None:
        """Raises Refused when the id is taken: ids are never used twice."""
        await self._bus.put(f"job.{record.id}", msgspec.msgpack.encode(record), revision=0)
        await self._bus.announce(JobChanged(job=record.id, state=record.state))

    async def get(self, job: str) -> JobRecord | None:
        """The job's record; None for an unknown id, or for what is no id at all (a wildcard, say)."""
        if not re.match(JOB_ID_PATTERN, job):
            return None
        found = await self._bus.get(f"job.{job}")
        return None if found is None else msgspec.msgpack.decode(found.value, type=JobRecord)

    async def update(self, job: str, change: Callable[[JobRecord], JobRecord]) -> JobRecord:
        """Apply `change` to the newest record, again if somebody wrote in between; raises KeyError (unknown id)."""
        for _ in range(100):
            found = await self._bus.get(f"job.{job}") if re.match(JOB_ID_PATTERN, job) else None
            if found is None:
                raise KeyError(job)
            old = msgspec.msgpack.decode(found.value, type=JobRecord)
            new = change(old)
            if new == old:
                return old
            with contextlib.suppress(Refused):
                await self._bus.put(f"job.{job}", msgspec.msgpack.encode(new), revision=found.revision)
                await self._bus.announce(JobChanged(job=job, state=new.state))
                return new
        raise Unavailable(f"job {job} was written by others 100 times in a row")

    async def move(self, job: str, state: State, error: str = "") -> JobRecord:
        """Take the job to `state`; raises IllegalMove (to its own state: nothing happens)."""
        return await self.update(job, lambda record: record if record.state == state else _move(record, state, error))

    async def list(self) -> list[JobRecord]:
        """All jobs, oldest first."""
        records = [await self.get(key.removeprefix("job.")) for key in await self._bus.keys("job.")]
        return sorted((r for r in records if r is not None), key=lambda r: (r.created_at, r.id))

    async def active(self) -> JobRecord | None:
        """The one job that is worked on."""
        found = await self._bus.get("active")
        return await self.get(found.value.decode()) if found and found.value else None

    async def set_active(self, job: str | None) -> None:
        """The monitor alone calls it."""
        await self._bus.put("active", (job or "").encode())

    async def ordinal(self, job: str) -> int:
        """The first ordinal that data has not published."""
        found = await self._bus.get(f"ordinal.{job}")
        return int(found.value) if found else 0

    async def set_ordinal(self, job: str, ordinal: int) -> None:
        """Data alone calls it, after the publish is acknowledged."""
        await self._bus.put(f"ordinal.{job}", str(ordinal).encode())


class ActiveJob:
    """The active job as a service sees it: its newest record, and a bell for changes."""

    def __init__(self, record: JobRecord) -> None:
        self.record = record
        self._bell = asyncio.Event()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def spec(self) -> JobSpec:
        return self.record.spec

    def update(self, record: JobRecord) -> None:
        if record != self.record:
            self.record = record
            self.ring()

    def ring(self) -> None:
        """Wake who waits in `changed`."""
        self._bell.set()

    async def changed(self, limit_s: float) -> None:
        """Return when the record has changed (or `ring` was called) since the last call, or after `limit_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):  # Python 3.11's wait_for can swallow a cancellation
                await self._bell.wait()
        self._bell.clear()


async def follow_active(jobs: JobStore, work: Callable[[ActiveJob], Awaitable[None]]) -> None:
    """Run `work` for the active job, for ever; cancel it when another job becomes active or the job has ended.

    A TriuneError of `work` fails the job with its sentence, not the service; Refused, Unavailable and any other error
    end the service, which its supervisor starts again. A bus that is away while nothing is at work is waited for.
    """
    while True:
        record = await _active_or_none(jobs)
        if record is None or record.state not in ACTIVE:
            await asyncio.sleep(POLL_S)
            continue
        await _work_on(jobs, ActiveJob(record), work)


async def _work_on(jobs: JobStore, job: ActiveJob, work: Callable[[ActiveJob], Awaitable[None]]) -> None:
    """`work` and the watch over the job's record, side by side, until the job ends or its work fails."""
    watch = asyncio.ensure_future(_watch(jobs, job))
    task = asyncio.ensure_future(work(job))
    try:
        await asyncio.wait({watch, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await _settle(jobs, job.id, task)
            await watch
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.wait({task, watch})


async def _watch(jobs: JobStore, job: ActiveJob) -> None:
    """Keep `job.record` fresh until the job is not active any more."""
    while True:
        record = await _active_or_none(jobs)
        if record is not None:
            job.update(record)
            if record.id != job.id or record.state not in ACTIVE:
                return
        await asyncio.sleep(POLL_S)


async def _settle(jobs: JobStore, job: str, task: "asyncio.Future[None]") -> None:
    """The job's work has ended: a sentence raised on purpose fails the job; a fault of ours is raised."""
    try:
        with one_error():
            task.result()
    except (Refused, Unavailable):
        raise
    except TriuneError as error:
        get_logger().error("the job failed", job=job, error=str(error))
        with contextlib.suppress(IllegalMove):
            await jobs.move(job, "failed", str(error))


async def _active_or_none(jobs: JobStore) -> JobRecord | None:
    try:
        return await jobs.active()
    except Unavailable:
        return None


class Lease(Message, frozen=True, kw_only=True):
    """Who is the one active instance of a service, and until when (seconds since the epoch)."""

    owner: str
    until: float


async def while_leading(bus: Bus, service: str, owner: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` as the one active instance of `service`: wait for the lease, renew it, give it back at the end.

    Raises Refused when another instance took the lease (this one slept past it): the process must end.
    """
    revision = await _take_lease(bus, service, owner)
    renewing = asyncio.ensure_future(_renew(bus, service, owner, revision))
    working = asyncio.ensure_future(work())
    try:
        await asyncio.wait({renewing, working}, return_when=asyncio.FIRST_COMPLETED)
        for one in (renewing, working):
            if one.done():
                one.result()
    finally:
        for one in (renewing, working):
            one.cancel()
        await asyncio.wait({renewing, working})
        with contextlib.suppress(TriuneError):
            await bus.put(f"lease.{service}", b"", revision=await _revision(bus, service, owner))


async def _renew(bus: Bus, service: str, owner: str, revision: int) -> None:
    while True:
        await asyncio.sleep(LEASE_S / 5)
        with contextlib.suppress(Unavailable):
            revision = await bus.put(f"lease.{service}", _lease(owner), revision=revision)


async def _revision(bus: Bus, service: str, owner: str) -> int:
    """The revision of our own lease; raises Refused when it is another's."""
    found = await bus.get(f"lease.{service}")
    if found is None or not found.value or msgspec.msgpack.decode(found.value, type=Lease).owner != owner:
        raise Refused(f"the lease of {service} is not held by {owner}")
    return found.revision


async def _take_lease(bus: Bus, service: str, owner: str) -> int:
    """Wait until the lease is free or has run out, then take it; returns the record's revision."""
    while True:
        found = await bus.get(f"lease.{service}")
        lease = msgspec.msgpack.decode(found.value, type=Lease) if found and found.value else None
        if lease is None or lease.until < time.time() or lease.owner == owner:
            with contextlib.suppress(Refused):
                return await bus.put(f"lease.{service}", _lease(owner), revision=found.revision if found else 0)
        await asyncio.sleep(POLL_S)


def _lease(owner: str) -> bytes:
    return msgspec.msgpack.encode(Lease(owner=owner, until=time.time() + LEASE_S))
