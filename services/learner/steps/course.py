"""Whether a job has another step to make, and the changes that it is made under."""

from services.learner.handlers import Intake
from services.learner.publishing.versions import Versions
from services.learner.steps.changes import fix_changes, has_open_changes
from shared.jobs.following import ActiveJob
from shared.jobs.record import JobStore


class Course:
    """The next step as the job's record and what has arrived say it."""

    def __init__(self, job: ActiveJob, jobs: JobStore, intake: Intake, versions: Versions) -> None:
        self._job, self._jobs, self._intake, self._versions = job, jobs, intake, versions

    @property
    def is_stopping(self) -> bool:
        """Whether somebody has stopped the job."""
        return self._job.record.state == "stopping"

    @property
    def goes_on(self) -> bool:
        """Whether there is a step to make; what was announced is replayed even when the job is stopping."""
        if self._versions.is_replaying or self._intake.assembler.is_told:
            return True
        total = self._versions.value("total_steps")
        return not self.is_stopping and self._versions.step < total and not self._intake.assembler.exhausted

    async def fix_changes(self) -> None:
        """Fix open changes to hold from the next step, in the record, before they take effect."""
        is_behind = self._versions.is_replaying or self._intake.assembler.is_told
        if has_open_changes(self._job.record) and not is_behind:
            first = self._versions.step + 1
            record = await self._jobs.update(self._job.id, lambda old: fix_changes(old, first))
            self._job.update(record)
            await self._versions.widen()
