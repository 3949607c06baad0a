"""A service works on the active job, and on nothing else: `follow_active`."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from shared.errors import Refused, TriuneError, Unavailable, one_error
from shared.jobs.record import ACTIVE, IllegalMove, JobRecord, JobStore
from shared.jobs.spec import JobSpec
from shared.runtime.logging import get_logger

POLL_S = 0.5


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
    """Keep `job.record` fresh until the job is not active any more; another job's record is never taken for it."""
    while True:
        record = await _active_or_none(jobs)
        if record is not None:
            if record.id != job.id:
                return
            job.update(record)
            if record.state not in ACTIVE:
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
