"""A service works on the active job, and on nothing else: `follow_active`.

What the active job is follows from the records alone (`active_of`), which the bus tells as they are written; so a
record can be missed between two looks, and the service still ends up at the job that is active now.
"""

import asyncio
import contextlib
import os
import time
import traceback
from collections.abc import Awaitable, Callable

import msgspec

from shared.errors import Refused, TriuneError, Unavailable, WorkFault
from shared.jobs.record import Fault, IllegalMove, JobRecord, JobStore, UnknownJob, active_of
from shared.jobs.spec import JobSpec
from shared.runtime.crashes import CrashFile
from shared.runtime.logging import get_logger

FAULTS_TO_FAIL = 3
"""A job that ends a service so often in the same way is failed: starting the service again would not help."""
FAULT_WINDOW_S = 6 * 3600.0
FAULTS_KEPT = 10
ASTRAY_S = 30.0
"""A service that works on another than the active job for so long ends; its supervisor starts it."""
_GUARD_S = 5.0

Work = Callable[["ActiveJob"], Awaitable[None]]


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
        assert record.id == self.id, f"the record of {record.id} is not that of {self.id}"
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


def end_process(at: str | None, wanted: str | None) -> None:
    """End this process at once; the work that hangs would not let an orderly end happen either."""
    get_logger().critical("this service works on another than the active job", at=at, active=wanted)
    os._exit(1)


async def follow_active(
    jobs: JobStore,
    work: Work,
    *,
    service: str,
    crashes: CrashFile | None = None,
    end: Callable[[str | None, str | None], None] = end_process,
) -> None:
    """Run `work` for the active job, for ever; cancel it when the job has ended or another one is active.

    A TriuneError of `work` fails the job with its sentence, not the service. Refused, Unavailable and any other error
    (as WorkFault) end the service, which its supervisor starts again; the third fault of the same kind within
    `FAULT_WINDOW_S` fails the job instead, and a native crash that the process before this one left in `crashes` is
    such a fault. A bus that is away is waited for. `end` is called with the job at work and the active one when they
    differ for `ASTRAY_S`.
    """
    follower = _Follower(jobs, work, service, crashes, end)
    tasks = [asyncio.ensure_future(each) for each in (follower.watch(), follower.guard(), follower.run())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _Follower:
    """The records as last heard, and the work on the job that is active by them."""

    def __init__(
        self,
        jobs: JobStore,
        work: Work,
        service: str,
        crashes: CrashFile | None,
        end: Callable[[str | None, str | None], None],
    ) -> None:
        self._jobs, self._work, self._service, self._end = jobs, work, service, end
        self._crashes = crashes
        self._crash = crashes.take() if crashes else None  # of the process before this one
        self._records: dict[str, JobRecord] = {}
        self._heard = asyncio.Event()
        self._at: str | None = None  # the job at work

    async def watch(self) -> None:
        """Hear of every record."""
        async for job, record in self._jobs.watch():
            if record is None:
                self._records.pop(job, None)
            else:
                self._records[job] = record
            self._heard.set()

    async def run(self) -> None:
        """Work on one active job after the other."""
        while True:
            active = active_of(self._records.values())
            if active is None or await self._died_of(active.id):
                await self._next()
                continue
            self._be_at(active.id)
            try:
                await self._work_on(ActiveJob(active))
            finally:
                self._be_at(None)

    def _be_at(self, job: str | None) -> None:
        self._at = job
        if self._crashes is not None:
            self._crashes.work_on(job or "")

    async def _died_of(self, job: str) -> bool:
        """Whether the process before this one crashed in the work on `job`, once too often: then the job has failed."""
        crash, self._crash = self._crash, None
        if crash is None or crash.job != job:
            return False
        get_logger().error("a native crash in the work on a job", job=job, error=crash.error, where=crash.where)
        sentence = f"{crash.error} in {crash.where}" if crash.where else crash.error
        return await self._note_fault(job, sentence, where=f"{crash.error} at {crash.where}")

    async def _next(self) -> None:
        """Return when a record was heard of since the last call."""
        await self._heard.wait()
        self._heard.clear()

    async def _work_on(self, job: ActiveJob) -> None:
        """Run the work beside the news of its job, until another job, or none, is the active one."""
        task = asyncio.ensure_future(self._work(job))
        leaving = asyncio.ensure_future(self._leave(job))
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await self._settle(job.id, task)
                await leaving
        finally:
            for one in (task, leaving):
                one.cancel()
            await asyncio.wait({task, leaving})

    async def _leave(self, job: ActiveJob) -> None:
        """Keep the job's record fresh; return when it is not the active one any more."""
        while True:
            newest, active = self._records.get(job.id), active_of(self._records.values())
            if newest is not None:
                job.update(newest)
            if active is None or active.id != job.id:
                return
            await self._next()

    async def _settle(self, job: str, task: "asyncio.Future[None]") -> None:
        """The job's work has ended: a sentence raised on purpose fails the job; a fault of ours ends the service."""
        error = _first(task.exception())
        match error:
            case None:
                return
            case Refused() | Unavailable():
                raise error
            case TriuneError():
                await self._fail(job, str(error))
            case _:
                get_logger().error("a fault in the work on a job", job=job, exc_info=error)
                if not await self._note_fault(job, _sentence(error), where=_where(error)):
                    raise WorkFault(f"{self._service} ended by a fault in the work on job {job}: {_sentence(error)}")

    async def _fail(self, job: str, sentence: str) -> None:
        get_logger().error("the job failed", job=job, error=sentence)
        with contextlib.suppress(IllegalMove, UnknownJob):
            await self._jobs.move(job, "failed", sentence)

    async def _note_fault(self, job: str, sentence: str, *, where: str) -> bool:
        """Put the fault on the job's record; at the third of its kind the job fails, and True is returned."""
        now = time.time()
        fault = Fault(service=self._service, error=sentence, where=where, at=now)

        def add(record: JobRecord) -> JobRecord:
            return msgspec.structs.replace(record, faults=[*record.faults, fault][-FAULTS_KEPT:])

        record = await self._jobs.update(job, add)
        same = [
            one
            for one in record.faults
            if (one.service, one.where) == (fault.service, fault.where) and now - one.at < FAULT_WINDOW_S
        ]
        if len(same) < FAULTS_TO_FAIL:
            return False
        await self._fail(job, f"{self._service} ended {len(same)} times in the same way: {fault.error}")
        return True

    async def guard(self) -> None:
        """End the process when its work is not that of the active job for long: nothing else would notice."""
        astray_since: float | None = None
        while True:
            await asyncio.sleep(_GUARD_S)
            with contextlib.suppress(Unavailable):
                record = await self._jobs.active()
                wanted, now = None if record is None else record.id, time.monotonic()
                if wanted == self._at:
                    astray_since = None
                elif astray_since is None:
                    astray_since = now
                elif now - astray_since >= ASTRAY_S:
                    self._end(self._at, wanted)


def _first(error: BaseException | None) -> BaseException | None:
    """The first error of a task group's; the error itself when it is no group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}" if frames else type(error).__name__
