"""When a checkpoint is written and what may be deleted after it."""

import asyncio
from pathlib import Path

from services.learner.checkpoint import Checkpoint, CheckpointState, load_latest, save
from services.learner.config import LearnerConfig
from services.learner.engine import Engine
from services.learner.handlers import Intake
from services.learner.versions import InCompute, Versions
from shared.errors import Corrupt, TriuneError, Unavailable
from shared.jobs.following import ActiveJob
from shared.runtime.logging import get_logger
from shared.runtime.moments import passing
from shared.service import Ports


class LastCheckpointMissing(TriuneError):
    """The job is trained, but its result is not on disk; resuming it tries again."""


class Saving:
    """Checkpoints of one job, and the journal and blobs that they make superfluous."""

    def __init__(
        self, job: ActiveJob, ports: Ports, engine: Engine, intake: Intake, versions: Versions, config: LearnerConfig
    ) -> None:
        self._job, self._bus, self._engine, self._intake = job, ports.bus, engine, intake
        self._versions, self._config = versions, config
        self._folder: Path = ports.settings.runs / job.id / "checkpoints"
        self._saved: int | None = None  # step of the last checkpoint
        self._offset = 1  # journal sequence that a replay from it starts at
        self._answered = 0  # requests for a checkpoint that were fulfilled
        self._journal = ""  # creation time of the journal's stream
        self._log = get_logger(job=job.id)

    async def restore(self, in_compute: InCompute) -> int:
        """Open the engine, from the last checkpoint if there is one; returns the journal sequence a replay starts from.

        Raises Corrupt when it belongs to another journal: groups would be lost silently.
        """
        self._journal = (await self._bus.stream_state("scored")).created
        found = await in_compute(lambda: load_latest(self._folder))
        if not isinstance(found, Checkpoint):
            self._log.info("model loaded", **await in_compute(lambda: self._engine.open(self._job.spec, None)))
            return 1
        state, folder = found.state, found.folder
        is_imported = state.journal_created == self._job.record.imported != self._journal
        if state.journal_created != self._journal and not is_imported:
            raise Corrupt(
                f"checkpoint {folder} belongs to a journal created at {state.journal_created}; the journal here was "
                f"created at {self._journal}: it is another one, and groups would be lost"
            )
        facts = await in_compute(lambda: self._engine.open(self._job.spec, folder))
        self._log.info("model loaded", checkpoint=folder.name, **facts)
        self._versions.step, self._versions.incarnation = state.step, state.incarnation
        offset = 1 if is_imported else state.offset  # in this journal the job begins at the checkpoint's cursor
        self._intake.assembler.restart(state.cursor, offset)
        self._saved, self._answered, self._offset = state.step, state.answered_checkpoints, offset
        return offset

    async def after_step(self, in_compute: InCompute) -> None:
        """Write a checkpoint when one is due, wanted, or the journal is getting full; delete old versions' blobs."""
        every, step = self._job.spec.learner.checkpoint_every, self._versions.step
        journal = await self._bus.stream_state("scored")
        is_full = 0 < journal.max_bytes * self._config.journal_share < journal.bytes
        frees = self._intake.assembler.offset() > self._offset
        try:
            if (every and step % every == 0) or (is_full and frees):
                await self.write(in_compute)
            await self.answer(in_compute)
        except Unavailable as error:  # a full disk, say: training goes on, the next step tries again
            self._log.error("no checkpoint could be written", step=step, error=str(error))
        needed = self._intake.evaluations.open | ({self._saved} if self._saved is not None else set())
        await asyncio.to_thread(self._versions.exports.delete_before, step - self._config.kept_versions + 1, needed)

    async def answer(self, in_compute: InCompute) -> None:
        """Write a checkpoint if somebody has asked for one; a request that meets a replay waits for its end."""
        wanted = self._job.record.checkpoint_wanted
        if wanted > self._answered and self._versions.is_live:
            self._answered = wanted
            await self.write(in_compute)

    async def finish(self, in_compute: InCompute) -> None:
        """The last checkpoint, unless the last step has one; nobody needs the versions' blobs any more."""
        if self._saved != self._versions.step:
            try:
                await self.write(in_compute)
            except Unavailable as error:
                raise LastCheckpointMissing(f"the last checkpoint could not be written: {error}") from error
        await asyncio.to_thread(self._versions.exports.delete_before, self._versions.step + 1, set())

    async def _purge_evaluations(self) -> None:
        """Remove the records of evaluations that are done and on the monitor's file."""
        floors = [await self._bus.journal_floor(self._job.id, "eval", name) for name in ("learner", "monitor")]
        await self._bus.purge("scored", self._job.id, "eval", below=min(floors) + 1)

    async def write(self, in_compute: InCompute) -> None:
        """Write a checkpoint, then purge the journal below what a replay from it, and the monitor, still need."""
        if not self._versions.is_live:
            return
        await self._versions.fence()
        state = CheckpointState(
            step=self._versions.step,
            cursor=self._intake.assembler.cursor,
            offset=self._intake.assembler.offset(),
            journal_created=self._journal,
            incarnation=self._versions.incarnation,
            answered_checkpoints=self._answered,
        )
        keep = self._job.spec.learner.keep_checkpoints
        await in_compute(lambda: save(self._engine, self._folder, state, keep=keep))
        passing("checkpoint-renamed")
        self._saved, self._offset = state.step, state.offset
        floor = await self._bus.journal_floor(self._job.id, "train", "monitor")
        await self._bus.purge("scored", self._job.id, "train", below=min(state.offset, floor + 1))
        await self._purge_evaluations()
        self._log.info("checkpoint", step=state.step, cursor=state.cursor, offset=state.offset)
