"""How a job ends: its last evaluations, voids for what stays open, the last checkpoint, its last state."""

import contextlib
from collections.abc import Iterable
from functools import partial

import msgspec

from services.learner.checkpoints.saving import Saving
from services.learner.handlers import Intake
from services.learner.publishing.versions import InCompute, Versions
from services.learner.steps.assembler import Lost
from services.learner.steps.barren import give_up
from services.learner.steps.changes import has_open_changes
from services.learner.steps.course import Course
from shared.jobs.following import ActiveJob
from shared.jobs.record import ACTIVE, IllegalMove, JobRecord
from shared.messages import EndOfOrder
from shared.service import Ports, Status


class Ending:
    """The end of one job, once there is no step to make."""

    def __init__(
        self,
        job: ActiveJob,
        ports: Ports,
        course: Course,
        intake: Intake,
        versions: Versions,
        saving: Saving,
        status: Status,
    ) -> None:
        self._job, self._bus, self._jobs, self._course = job, ports.bus, ports.jobs, course
        self._intake, self._versions, self._saving, self._status = intake, versions, saving, status

    async def has_finished(self, in_compute: InCompute, passed_over: Iterable[Lost]) -> bool:
        """Wait for the evaluations, void what is open, write the last checkpoint, and end the job.

        False when the job was changed in the meantime and goes on. Once it has said that it ends, no change holds.
        `passed_over`: why no step was made, should there be none.
        """
        self._status.state = "finishing"
        await self._versions.settled()
        if not self._course.is_stopping:
            await self._evaluate_last()
        while self._job.record.state == "paused":
            await self._job.changed(1.0)
        if self._course.goes_on or not await self._has_begun():
            return False
        await self._void_open()
        await self._saving.finish(in_compute)
        if self._versions.step == 0 and not self._course.is_stopping:
            raise give_up("the job has no training step: no group of its order can be trained on", passed_over)
        await self._move()
        await self._bus.forget_job(self._job.id)
        self._status.state = "idle"
        return True

    async def _evaluate_last(self) -> None:
        """Have the last version evaluated if it was not yet, and wait until every evaluation is done."""
        await self._versions.evaluate()
        while self._intake.evaluations.open and not self._course.is_stopping:
            await self._course.fix_changes()
            if self._course.goes_on:
                return
            self._intake.bell.clear()
            await self._intake.news(5.0)

    async def _has_begun(self) -> bool:
        """Put on record that the job ends now, unless a change is waiting that may let it go on."""

        def begin(record: JobRecord) -> JobRecord:
            if record.state != "stopping" and has_open_changes(record):
                return record
            return msgspec.structs.replace(record, ending=True)

        record = await self._jobs.update(self._job.id, begin)
        self._job.update(record)
        return record.ending

    async def _void_open(self) -> None:
        """At a stop, or when the job was shortened: every admitted ordinal that will not be trained on is void."""
        last, assembler = self._versions.publisher.last, self._intake.assembler
        if last is None or (not self._course.is_stopping and last.prompts_end <= assembler.cursor):
            return
        end = await self._sealed()
        stopped = partial(Lost, "stopped", f"the job ended at step {self._versions.step}", is_ours=True)
        await self._intake.give_up(
            {ordinal: why or stopped(*end.open[ordinal]) for ordinal, why in assembler.open(end.total).items()}
        )

    async def _sealed(self) -> EndOfOrder:
        """Ask data to seal the order; returns its word on where."""
        await self._jobs.update(self._job.id, lambda record: msgspec.structs.replace(record, seal_wanted=True))
        while self._intake.end_of_order is None:
            self._intake.bell.clear()
            if self._intake.end_of_order is None:
                self._status.state = "waiting for data to seal the order"
                await self._intake.news(1.0)
        return self._intake.end_of_order

    async def _move(self) -> None:
        """Take the job to its last state, whatever somebody makes of it at the same moment."""
        while (record := await self._jobs.get(self._job.id)) is not None and record.state in ACTIVE:
            if record.state == "paused":
                await self._job.changed(1.0)
                continue
            with contextlib.suppress(IllegalMove):  # it was moved in between: look again
                await self._jobs.move(self._job.id, "stopped" if record.state == "stopping" else "done")
