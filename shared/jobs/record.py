"""The truth on jobs: records in the bus's key-value bucket, written by compare-and-set.

Keys: `job.<id>` the record, `ordinal.<id>` data's next ordinal. Which job is worked on is nowhere written: `active_of`
says it of the records.
"""

import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Literal

import msgspec

from shared.bus.port import Bus
from shared.errors import Refused, TriuneError, Unavailable
from shared.jobs.spec import JobSpec
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
OVER: tuple[State, ...] = ("stopped", "done")
"""Nothing brings such a job back; a failed one may be resumed."""


class IllegalMove(TriuneError):
    """A job cannot go from its state to the wanted one."""


class UnknownJob(TriuneError):
    """No job has this id, or the job was forgotten."""

    def __init__(self, job: str) -> None:
        super().__init__(f"there is no job {job!r}")


class Change(Message, frozen=True, kw_only=True):
    """A PATCH. `since` is the first ordinal (source weights) or step (the others) that it holds for.

    None until the service that it concerns (data: source weights; learner: the others) has fixed it, which it does
    before the change takes effect; so a replay applies it at the same place.
    """

    key: str
    value: int | float
    requested_at: float
    since: int | None = None


class Fault(Message, frozen=True, kw_only=True):
    """An error of ours that ended a service while it worked on the job."""

    service: str
    error: str  # one sentence: the type and its text
    where: str  # file and line that raised it
    at: float


class DataFacts(Message, frozen=True, kw_only=True):
    """The training and held-out files as the job's first reader found them: a digest of each, and the first pass."""

    files: dict[str, str]  # path -> fingerprint
    groups: int  # prompts of one pass over the training files


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
    ending: bool = False  # the learner ends it now: no change holds any more
    stop_wanted: bool = False  # somebody has stopped it: should it fail on the way and be resumed, it still ends
    data: DataFacts | None = None  # written by data when it opens the files for the first time
    checkpoint_wanted: int = 0  # counts the requests; the learner remembers how many it has answered
    faults: list[Fault] = []  # the newest ones
    imported: str = ""  # the journal (its creation time) of the checkpoint that an imported run goes on from
    abandoned: bool = False  # the monitor forgets it as soon as it has ended
    abandon_files: bool = False  # with its run folder


def _move(record: JobRecord, state: State, error: str) -> JobRecord:
    if state not in MOVES[record.state]:
        raise IllegalMove(f"job {record.id} is {record.state}; it cannot become {state}")
    if state == "running" and record.stop_wanted:
        state = "stopping"  # it failed while it was being stopped
    now = time.time()
    changes: dict[str, object] = {"state": state, "error": error}
    if state == "stopping":
        changes["stop_wanted"] = True
    if state in ACTIVE and record.started_at is None:
        changes["started_at"] = now
    if state in ENDED:
        changes["ended_at"] = now
    if state == "queued":
        changes |= {"faults": [], "ending": False, "ended_at": None}  # resumed by hand: its count starts anew
    return msgspec.structs.replace(record, **changes)


def abandoned(record: JobRecord, *, files: bool) -> JobRecord:
    """`record` on its way to be forgotten: a job that lives is stopped first; `files`: with its run folder."""
    if record.state in ("running", "paused"):
        record = _move(record, "stopping", record.error)
    elif record.state == "queued":
        record = _move(record, "stopped", record.error)
    return msgspec.structs.replace(record, abandoned=True, abandon_files=record.abandon_files or files)


def active_of(records: Iterable[JobRecord]) -> JobRecord | None:
    """The one job to work on: the oldest that has started and not ended."""
    return min((record for record in records if record.state in ACTIVE), key=by_age, default=None)


def by_age(record: JobRecord) -> tuple[float, str]:
    """The order of the queue."""
    return record.created_at, record.id


class JobStore:
    """Reads and writes job records. Raises Unavailable when the bus does not answer."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._over: set[str] = set()  # ids of jobs whose state never changes again

    async def create(self, record: JobRecord) -> None:
        """Raises Refused when the id is taken: ids are never used twice."""
        await self._bus.put(f"job.{record.id}", msgspec.msgpack.encode(record), revision=0)
        await self._bus.announce(JobChanged(job=record.id, state=record.state))

    async def get(self, job: str) -> JobRecord | None:
        """The job's record; None for an unknown id, or for what is no id at all (a wildcard, say)."""
        if not re.match(JOB_ID_PATTERN, job):
            return None
        found = await self._bus.get(f"job.{job}")
        return None if found is None else _decode(found.value)

    async def is_taken(self, job: str) -> bool:
        """Whether a job has or had this id; one that was forgotten keeps it."""
        return await self._bus.get(f"job.{job}") is not None

    async def update(self, job: str, change: Callable[[JobRecord], JobRecord]) -> JobRecord:
        """Apply `change` to the newest record, again if somebody wrote in between; raises UnknownJob."""
        for _ in range(100):
            found = await self._bus.get(f"job.{job}") if re.match(JOB_ID_PATTERN, job) else None
            old = None if found is None else _decode(found.value)
            if found is None or old is None:
                raise UnknownJob(job)
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

    async def list(self, known: Mapping[str, JobRecord] | None = None) -> list[JobRecord]:
        """All jobs, oldest first; those that are over for good are taken from `known`, where they are in it."""
        over = {job: record for job, record in (known or {}).items() if record.state in OVER}
        jobs = [key.removeprefix("job.") for key in await self._bus.keys("job.")]
        records = [over.get(job) or await self.get(job) for job in jobs]
        return sorted((record for record in records if record is not None), key=by_age)

    async def active(self) -> JobRecord | None:
        """The one job that is worked on, asked of the bus; jobs that are over for good are asked for once."""
        live: list[JobRecord] = []
        for job in (key.removeprefix("job.") for key in await self._bus.keys("job.")):
            record = None if job in self._over else await self.get(job)
            if record is not None and MOVES[record.state]:
                live.append(record)
            else:
                self._over.add(job)
        return active_of(live)

    async def watch(self) -> AsyncIterator[tuple[str, JobRecord | None]]:
        """Every job with its record (None: it was forgotten), then each newer record as it is written."""
        async for key, found in self._bus.records("job."):
            yield key.removeprefix("job."), _decode(found.value)

    async def forget(self, job: str) -> None:
        """Remove the record for good; its id stays taken. Raises UnknownJob."""
        if await self.get(job) is None:
            raise UnknownJob(job)
        await self._bus.put(f"job.{job}", b"")

    async def ordinal(self, job: str) -> int:
        """The first ordinal that data has not published."""
        found = await self._bus.get(f"ordinal.{job}")
        return int(found.value) if found else 0

    async def set_ordinal(self, job: str, ordinal: int) -> None:
        """Data alone calls it, after the publish is acknowledged."""
        await self._bus.put(f"ordinal.{job}", str(ordinal).encode())


def _decode(value: bytes) -> JobRecord | None:
    """The record in a key's value; None for one that was forgotten."""
    return msgspec.msgpack.decode(value, type=JobRecord) if value else None
