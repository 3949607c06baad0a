"""When a checkpoint is written and what may be deleted after it."""

import asyncio
import math
import time
from pathlib import Path

import msgspec

from services.learner.checkpoints.checkpoint import Checkpoint, load_latest, save
from services.learner.checkpoints.progress import Progress
from services.learner.config import LearnerConfig
from services.learner.engine import Engine, Facts
from services.learner.handlers import Intake
from services.learner.publishing.versions import InCompute, Versions
from shared.errors import Corrupt, TriuneError, Unavailable
from shared.jobs.following import ActiveJob
from shared.log.purging import MONITOR, Needed, purge_log
from shared.messages import EngineOpened
from shared.runtime.logging import get_logger
from shared.runtime.moments import passing
from shared.service import Ports

DISK = "the disk of checkpoints"


class LastCheckpointMissing(TriuneError):
    """The job is trained, but its result is not on disk; resuming it tries again."""


class Saving:
    """Checkpoints of one job, and what of the log and of the blobs they make superfluous."""

    def __init__(
        self, job: ActiveJob, ports: Ports, engine: Engine, intake: Intake, versions: Versions, config: LearnerConfig
    ) -> None:
        self._job, self._bus, self._engine, self._intake = job, ports.bus, engine, intake
        self._versions, self._config, self._progress = versions, config, versions.progress
        self._retry = ports.retry
        self._replica = ports.settings.replica
        self._folder: Path = ports.settings.runs / job.id / "checkpoints"
        self._saved: Progress | None = None  # as the last checkpoint has it
        self._freed = 1  # first sequence of the journal that was not purged
        self._not_before = -math.inf
        self._log = get_logger(job=job.id)

    async def restore(self, in_compute: InCompute) -> None:
        """Open the engine, from the last checkpoint if there is one, and continue from its progress.

        Raises Corrupt when it belongs to another journal: groups would be lost silently.
        """
        created = (await self._bus.stream_state("scored")).created
        found = await in_compute(lambda: load_latest(self._folder))
        if not isinstance(found, Checkpoint):
            self._progress.journal_created = created
            await self._opened(await in_compute(lambda: self._engine.open(self._job.spec, None)))
            return
        state, folder = found.state, found.folder
        is_imported = state.journal_created == self._job.record.imported != created
        if state.journal_created != created and not is_imported:
            raise Corrupt(
                f"checkpoint {folder} belongs to a journal created at {state.journal_created}; the journal here was "
                f"created at {created}: it is another one, and groups would be lost"
            )
        facts = await in_compute(lambda: self._engine.open(self._job.spec, folder))
        await self._opened(facts | {"checkpoint": folder.name})
        if is_imported:  # in this log the job begins at the checkpoint's cursor
            state = msgspec.structs.replace(state, offset=1, told=0, journal_created=created)
        self._progress.become(state)
        self._saved, self._freed = state, state.offset
        self._intake.assembler.resume()

    async def _opened(self, facts: Facts) -> None:
        self._log.info("model loaded", **facts)
        replica = self._replica
        await self._bus.announce(
            EngineOpened(job=self._job.id, service="learner", replica=replica, facts=facts, opened_at=time.time())
        )

    async def after_step(self, in_compute: InCompute) -> None:
        """Write a checkpoint when one is due, wanted, or the journal is getting full."""
        every, step = self._job.spec.learner.checkpoint_every, self._progress.step
        is_due = every > 0 and step % every == 0
        if is_due or self._is_wanted or await self._is_needed_for_room():
            await self._try_write(in_compute)

    async def drop_old(self) -> None:
        """Delete the blobs of versions that nobody needs any more."""
        await self._versions.delete_before(self._progress.step - self._config.kept_versions + 1, self._needed)

    async def answer(self, in_compute: InCompute) -> None:
        """Write a checkpoint if somebody has asked for one; a request that meets a replay waits for its end."""
        if self._is_wanted and not self._versions.is_replaying:
            await self._try_write(in_compute)

    async def finish(self, in_compute: InCompute) -> None:
        """The last checkpoint, unless the last step has one; nobody needs the versions' blobs any more."""
        if self._saved is None or self._saved.step != self._progress.step:
            try:
                await self._write_last(in_compute)
            except Unavailable as error:
                raise LastCheckpointMissing(f"the last checkpoint could not be written: {error}") from error
        await self._versions.delete_before(self._progress.step + 1, set())

    async def _write_last(self, in_compute: InCompute) -> None:
        """`write`; waits for a disk that is full. Raises Unavailable `last_checkpoint_s` after the first failure."""
        try:
            await self.write(in_compute)
            return
        except Unavailable as error:
            failure = error
        with self._retry.waiting(DISK, self._config.last_checkpoint_s) as wait:
            while True:
                wait.pause(failure)
                await asyncio.sleep(self._config.rewrite_s)
                try:
                    await self.write(in_compute)
                    return
                except Unavailable as error:
                    failure = error

    @property
    def _is_wanted(self) -> bool:
        return self._job.record.checkpoint_wanted > self._progress.answered

    @property
    def _needed(self) -> set[int]:
        """Versions that somebody may still load, besides the newest ones."""
        return self._intake.evaluations.open | ({self._saved.step} if self._saved is not None else set())

    async def _is_needed_for_room(self) -> bool:
        """Whether the journal is getting full of what a checkpoint would free."""
        journal = await self._bus.stream_state("scored")
        if journal.max_bytes <= 0 or journal.bytes <= journal.max_bytes * self._config.journal_share:
            return False
        offset = self._intake.assembler.offset()
        if offset <= self._freed or await self._bus.floor("scored", self._job.id, "train", MONITOR) < self._freed:
            return False
        own = await self._bus.stored("scored", self._job.id, "train") * journal.bytes / max(journal.messages, 1)
        room = journal.max_bytes - journal.bytes + own  # what all other jobs leave
        return own > room * self._config.journal_share

    async def _try_write(self, in_compute: InCompute) -> None:
        """`write`; a full disk, say, stops no training: it is tried again a little later."""
        if time.monotonic() < self._not_before:
            return
        try:
            await self.write(in_compute)
        except Unavailable as error:
            self._not_before = time.monotonic() + self._config.rewrite_s
            self._log.error("no checkpoint could be written", step=self._progress.step, error=str(error))

    async def write(self, in_compute: InCompute) -> None:
        """Write a checkpoint, then purge of the log what neither a replay from it nor the monitor still needs."""
        await self._versions.settled()
        if not self._versions.is_live:
            return
        await self._versions.fence()
        state = msgspec.structs.replace(
            self._progress,
            offset=self._intake.assembler.offset(),
            told=self._versions.publisher.sequence,
            answered=max(self._progress.answered, self._job.record.checkpoint_wanted),
        )
        keep = self._job.spec.learner.keep_checkpoints
        await in_compute(lambda: save(self._engine, self._folder, state, keep=keep))
        passing("checkpoint-renamed")
        self._progress.become(state)
        self._saved, self._freed = state, state.offset
        kept = {max(state.step - self._config.kept_versions, 0), *self._needed}
        await purge_log(
            self._bus,
            self._job.id,
            Needed(train=state.offset, steps=state.told, weights=self._versions.first_needed(kept)),
        )
        self._log.info("checkpoint", step=state.step, cursor=state.cursor, offset=state.offset)
