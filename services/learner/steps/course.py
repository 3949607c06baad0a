"""Whether a job has another step to make, and the changes that it is made under."""

from collections.abc import Mapping

from services.learner.algorithms.objective import can_differ
from services.learner.attention.batch import Ready
from services.learner.handlers import Intake
from services.learner.publishing.versions import Versions
from services.learner.steps.changes import fix_changes, has_open_changes
from shared.jobs.following import ActiveJob
from shared.jobs.record import JobStore
from shared.staleness import staleness


class Course:
    """The next step as the job's record and what has arrived say it."""

    def __init__(self, job: ActiveJob, jobs: JobStore, intake: Intake, versions: Versions) -> None:
        self._job, self._jobs, self._intake, self._versions = job, jobs, intake, versions

    @property
    def is_stopping(self) -> bool:
        """Whether somebody has stopped the job."""
        return self._job.record.state == "stopping"

    @property
    def is_behind(self) -> bool:
        """Whether the next step was told, or its version announced, before."""
        return self._versions.is_replaying or self._intake.assembler.is_told

    @property
    def goes_on(self) -> bool:
        """Whether there is a step to make; what was announced is replayed even when the job is stopping."""
        if self.is_behind:
            return True
        total = self._versions.value("total_steps")
        return not self.is_stopping and self._versions.step < total and not self._intake.assembler.exhausted

    def staleness(self, groups: Mapping[int, Ready]) -> list[int]:
        """Of each group, on the weights as they are now."""
        return [staleness(self._versions.step, ready.scored.oldest_version) for ready in groups.values()]

    def importance(self, groups: Mapping[int, Ready]) -> bool:
        """Whether the sampler is corrected for: with `auto`, when it can be another policy than the learner's."""
        setting = self._job.spec.algorithm.importance
        if setting != "auto":
            return setting == "on"
        if can_differ(self._job.spec):
            return True
        is_mixed = any(self.staleness(groups)) or min(groups) < self._versions.progress.stale_until
        return is_mixed or self._versions.value("max_staleness") > 0

    async def fix_changes(self) -> None:
        """Fix open changes to hold from the next step, in the record, before they take effect."""
        if has_open_changes(self._job.record) and not self.is_behind:
            first = self._versions.step + 1
            record = await self._jobs.update(self._job.id, lambda old: fix_changes(old, first))
            self._job.update(record)
            await self._versions.widen()
