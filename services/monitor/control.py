"""Which job runs, and whose streams are read: one job is active, the others wait in order.

The monitor alone promotes (queued → running). A job is read while it is active, and after its
end until everything is on file.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Iterable

from services.monitor.exports.feeding import Feeds
from services.monitor.handlers import Desk, JobReading
from services.monitor.history.fold import FINAL
from services.monitor.history.queries import reading
from services.monitor.history.schema import using
from shared.errors import Corrupt, Refused, TriuneError, Unavailable
from shared.jobs.record import ACTIVE, ENDED, OVER, IllegalMove, JobRecord, UnknownJob, active_of, by_age
from shared.log.purging import drop_log
from shared.runtime.logging import get_logger


def next_to_start(records: Iterable[JobRecord]) -> JobRecord | None:
    """The job to start: the oldest that waits, if none is active."""
    listed = list(records)
    if active_of(listed) is not None:
        return None
    return min((record for record in listed if record.state == "queued"), key=by_age, default=None)


class Control:
    """The monitor's loop over all jobs; `records` is what it saw last, for answers while the bus is away."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.records: dict[str, JobRecord] = {}
        self.errors: dict[str, str] = {}  # job -> why its streams cannot be read
        self._readings: dict[str, tuple[JobReading, asyncio.Task[None]]] = {}
        self._feeds: dict[str, Feeds] = {}  # they outlive a reading that starts again
        self._on_file: set[str] = set()
        self._away: set[str] = set()  # whose folders cannot be used now, as the log says
        self._freed: set[str] = set()  # their blobs are deleted, or are being
        self._heard = asyncio.Event()
        self._log = get_logger()

    @property
    def active(self) -> JobRecord | None:
        """The job that is worked on."""
        return active_of(self.records.values())

    def reading_of(self, job: str) -> JobReading | None:
        held = self._readings.get(job)
        return held[0] if held is not None else None

    def is_told(self, record: JobRecord) -> bool:
        """Whether all that happened in the job was told to its listeners: it has ended, and nothing of it is read."""
        held = self._readings.get(record.id)
        return record.state in ENDED and (held is None or held[1].done())

    async def run(self) -> None:
        """Hear of every record and look at the jobs, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hear())
                while True:
                    with contextlib.suppress(Unavailable):
                        await self._look(group)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._desk.config.promote_s):
                            await self._heard.wait()
                    self._heard.clear()
        finally:
            await asyncio.gather(*map(self._leave_sinks, list(self._feeds)))

    async def _hear(self) -> None:
        async for job, record in self._desk.jobs.watch():
            before = self.records.get(job)
            if record is None:
                self.records.pop(job, None)
            else:
                self.records[job] = record
                if before is not None and before != record and (record.state not in ENDED or self.is_told(record)):
                    self._tell(record)
            self._heard.set()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """Once: promote, and see to each job; one whose folder cannot be used holds up none of the others."""
        await self._promote(list(self.records.values()))
        for record in sorted(self.records.values(), key=by_age):
            try:
                await self._see_to(group, record)
                self._away.discard(record.id)
            except Unavailable as error:
                if record.id not in self._away:
                    self._away.add(record.id)
                    self._log.warning("a job cannot be seen to now; tried again", job=record.id, error=str(error))
            except Corrupt as error:
                await self._give_up(record.id, error)

    async def _see_to(self, group: asyncio.TaskGroup, record: JobRecord) -> None:
        """Start and end the reading of one job, forget it when it was abandoned."""
        await self._attend(group, record)
        self._free_blobs(group, record)
        await self._forget_abandoned(record)

    async def _promote(self, listed: list[JobRecord]) -> None:
        waiting = next_to_start(listed)
        if waiting is None:
            return
        with contextlib.suppress(IllegalMove, UnknownJob):  # it was stopped or forgotten in between
            await self._desk.jobs.move(waiting.id, "running")
            self._log.info("a job was started", job=waiting.id)

    async def _attend(self, group: asyncio.TaskGroup, record: JobRecord) -> None:
        job = record.id
        held = self._readings.get(job)
        if held is not None:
            held[0].record = record
            if held[1].done():
                del self._readings[job]
            return
        if record.state in ACTIVE:
            self._on_file.discard(job)
        if job in self.errors:
            return
        if record.state in ACTIVE or (record.state in ENDED and not await self._is_on_file(record)):
            reading_ = JobReading(self._desk, record, self._feeds_of(record))
            task = group.create_task(self._read(reading_))
            task.add_done_callback(lambda _: self._on_read(job))
            self._readings[job] = reading_, task

    def _feeds_of(self, record: JobRecord) -> Feeds:
        held = self._feeds.get(record.id)
        if held is None or held.is_ending:
            folder, names = self._desk.runs / record.id, record.spec.monitor.sinks
            held = self._feeds[record.id] = Feeds(folder, record.id, names, self._desk.config)
        return held

    async def _leave_sinks(self, job: str) -> None:
        if feeds := self._feeds.pop(job, None):
            await feeds.leave(self._desk.config.feed_close_s)

    def _on_read(self, job: str) -> None:
        """The end of a job is told last: its last steps are read after it was recorded."""
        record = self.records.get(job)
        if record is not None and record.state in ENDED:
            self._tell(record)

    def _tell(self, record: JobRecord) -> None:
        self._desk.live.tell(record.id, "state", {"state": record.state, "error": record.error})

    async def _is_on_file(self, record: JobRecord) -> bool:
        """Whether everything of an ended job is in its run folder; then there is nothing to read."""
        if record.id not in self._on_file and await asyncio.to_thread(_final_state, self._desk, record) == record.state:
            self._on_file.add(record.id)
        return record.id in self._on_file

    async def _read(self, job: JobReading) -> None:
        """Read one job; an error ends this reading alone: the others and the API go on."""
        try:
            await job.run()
            self._feeds.pop(job.record.id, None)
            if job.record.state in ("done", "stopped"):
                await self._discard(job.record.id)
        except Refused:
            raise
        except Unavailable as error:
            self._log.warning("reading a job stopped and starts again", job=job.record.id, error=str(error))
        except Corrupt as error:
            await self._give_up(job.record.id, error)
        except TriuneError as error:
            self._log.error("reading a job failed and starts again", job=job.record.id, error=str(error))

    async def _give_up(self, job: str, error: Corrupt) -> None:
        self.errors[job] = str(error)
        self._log.error("a job can no longer be read", job=job, error=str(error))
        await self._leave_sinks(job)

    async def _discard(self, job: str) -> None:
        """Remove what the bus still holds of a job that is on file; a failed one keeps it, to be resumed."""
        await self._desk.bus.forget_job(job)
        await drop_log(self._desk.bus, job)

    def _free_blobs(self, group: asyncio.TaskGroup, record: JobRecord) -> None:
        """Start deleting the blobs of a job that is over and on file: once, and again after a restart of ours."""
        job = record.id
        if record.state in OVER and job in self._on_file and job not in self._freed:
            self._freed.add(job)
            group.create_task(self._free(job))

    async def _free(self, job: str) -> None:
        try:
            count = await asyncio.to_thread(self._desk.blobs.forget, job)
        except Unavailable as error:
            self._freed.discard(job)
            self._log.warning("blobs of a job cannot be deleted now", job=job, error=str(error))
        else:
            self._log.info("the job's blobs are deleted", job=job, count=count)

    async def _forget_abandoned(self, record: JobRecord) -> None:
        """Remove all that is held of an abandoned job that has ended, once nothing reads it any more."""
        job, desk = record.id, self._desk
        if not record.abandoned or record.state not in ENDED or job in self._readings:
            return
        if job not in self.errors and not await self._is_on_file(record):
            return
        await desk.bus.erase_job(job)
        await asyncio.to_thread(desk.blobs.forget, job)
        if record.abandon_files:
            await asyncio.to_thread(shutil.rmtree, desk.runs / job, ignore_errors=True)
        await desk.jobs.forget(job)
        self.errors.pop(job, None)
        self._on_file.discard(job)
        self._log.info("an abandoned job was forgotten", job=job)


def _final_state(desk: Desk, record: JobRecord) -> str | None:
    folder = desk.runs / record.id
    with using(folder), reading(folder) as reader:
        return reader.meta(FINAL) if reader else None
