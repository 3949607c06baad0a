"""One job from its first to its last step: a fold over the journal.

The state after step s follows from the initial weights, the job file, its changes and the journal. After a restart the
last checkpoint is loaded and the journal replayed from its offset; steps whose version was already announced are
computed again and not announced again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from services.learner.assembler import Assembler, Step
from services.learner.batch import Ready
from services.learner.changes import fix_changes, has_open_changes, value_at
from services.learner.checkpoint import Checkpoint, CheckpointState, load_latest, save
from services.learner.config import LearnerConfig
from services.learner.engine import Engine, StepResult
from services.learner.evaluations import is_due
from services.learner.handlers import Intake, read_all
from services.learner.metrics import LearnerMetrics
from services.learner.publisher import Publisher
from shared.errors import Corrupt, Unavailable, one_error
from shared.jobs import ActiveJob
from shared.log import get_logger
from shared.messages import BlobRef, EndOfOrder, EvalDone, EvalDue, Kind, StepDone
from shared.service import Ports, Status
from shared.staleness import staleness, window_end

Result = TypeVar("Result")


class Training:
    """The learner's work on one job."""

    def __init__(
        self,
        job: ActiveJob,
        ports: Ports,
        engine: Engine,
        config: LearnerConfig,
        status: Status,
        metrics: LearnerMetrics,
    ) -> None:
        self.job, self.ports, self.engine, self.config = job, ports, engine, config
        self.status, self.metrics = status, metrics
        self.publisher = Publisher(ports.bus, ports.ledger, ports.blobs, job.id)
        self.intake = Intake(
            job.id,
            ports.bus,
            ports.blobs,
            engine,
            Assembler(job.spec.algorithm.prompts_per_step),
            job.spec.algorithm.drop_uniform_groups,
        )
        self.folder: Path = ports.settings.runs / job.id / "checkpoints"
        self.step = 0
        self.incarnation = 0
        self.checkpoint_version = 0
        self._answered_checkpoints = 0
        self._created = ""
        self._stale_until = 0  # groups of an earlier incarnation below this ordinal get importance weights
        self._compute = ThreadPoolExecutor(1, "compute")
        self._publishing = asyncio.Lock()
        self._log = get_logger(job=job.id)

    @property
    def assembler(self) -> Assembler[Ready]:
        return self.intake.assembler

    async def run(self) -> None:
        """Train, evaluate and finish the job; raises TriuneError when it cannot go on."""
        self.status.state = "loading"
        try:
            start = await self._restore()
            with one_error():
                await self._work(start)
        finally:
            self.intake.close()
            self._compute.shutdown(wait=False, cancel_futures=True)

    async def _work(self, start: int) -> None:
        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(self._read("train", start, self._widen)),
                group.create_task(self._read("eval", 1, self._finish_evaluations)),
                group.create_task(self._listen()),
                group.create_task(self._watch_job()),
            ]
            self.status.state = "training"
            await self._train_all()
            await self._finish()
            for reader in readers:
                reader.cancel()

    # ---------------------------------------------------------------- start

    async def _restore(self) -> int:
        """Load the model, the last checkpoint and the last announcement; returns the journal sequence to read from."""
        spec = self.job.spec
        await self._in_compute(lambda: self.engine.load(spec))
        self._created = (await self.ports.bus.stream_state("scored")).created
        found = await self._in_compute(lambda: load_latest(self.folder))
        if found is not None:
            self._check_journal(found)
            await self._in_compute(lambda: self.engine.restore(found.folder))
            self.step, self.incarnation = found.state.step, found.state.incarnation
            self.assembler.cursor = found.state.cursor
            self.checkpoint_version = found.state.step
            self._answered_checkpoints = found.state.answered_checkpoints
        last = await self.publisher.recover()
        if last is None:
            await self._announce_first()
        else:
            self._log.info("recovered", step=self.step, announced=last.version, cursor=self.assembler.cursor)
        return found.state.offset if found else 1

    def _check_journal(self, found: Checkpoint) -> None:
        if found.state.journal_created != self._created:
            raise Corrupt(
                f"checkpoint {found.folder} belongs to a journal created at {found.state.journal_created}; "
                f"the journal here was created at {self._created}: it is another one, and groups would be lost"
            )

    async def _announce_first(self) -> None:
        chain, digest = await self.publisher.store(self.engine, anchor=True)
        if self.job.spec.data.held_out:
            self.intake.evaluations.announce(self.step)
            await self.ports.bus.announce(EvalDue(job=self.job.id, version=self.step, chain=chain))
        await self._announce(chain, digest)

    # ---------------------------------------------------------------- readers

    async def _read(self, kind: Kind, start: int, after_fetch: Callable[[], Awaitable[None]]) -> None:
        await read_all(
            self.intake,
            self.ports.bus,
            kind=kind,
            start=start,
            max_records=self.config.fetch_records,
            after_fetch=after_fetch,
        )

    async def _listen(self) -> None:
        events = self.ports.bus.events(self.job.id, "end-of-order", "eval-due", "eval-done")
        async for event, _ in events:
            await self.intake.on_event(event)
            await self._finish_evaluations()
            self.intake.bell.set()

    async def _watch_job(self) -> None:
        while True:
            await self.job.changed(1.0)
            self.intake.bell.set()

    async def _finish_evaluations(self) -> None:
        for version, total, void in self.intake.evaluations.complete():
            await self.ports.bus.announce(EvalDone(job=self.job.id, version=version, total=total, void=void))
            self.intake.evaluations.finish(version)
            self.intake.bell.set()

    # ---------------------------------------------------------------- steps

    async def _train_all(self) -> None:
        while self.step < self._value("total_steps") and not self.assembler.exhausted and not self._stopping:
            waited = time.monotonic()
            step = await self._next_step()
            if step is None:
                return
            if not step.groups:
                self.assembler.consume(step)
                continue
            await self._train(step, wait_s=time.monotonic() - waited)

    @property
    def _stopping(self) -> bool:
        return self.job.record.state == "stopping"

    def _value(self, key: str, step: int | None = None) -> int:
        """`total_steps` or `max_staleness` as it holds for `step` (default: the next one)."""
        return value_at(self.job.spec, self.job.record.changes, key, self.step + 1 if step is None else step)

    async def _next_step(self) -> Step[Ready] | None:
        """Wait for the groups of the next step; None when the job is stopping or has been shortened meanwhile."""
        while not self._stopping and self.step < self._value("total_steps"):
            await self._fix_changes()
            self.intake.bell.clear()
            step = self.assembler.next_step()
            if step is not None:
                return step
            await self._answer_checkpoint()
            await self._wait_bell(5.0)
        return None

    async def _wait_bell(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self.intake.bell.wait()
        except TimeoutError:
            return

    async def _fix_changes(self) -> None:
        """Fix open changes to hold from the next step, in the record, before they take effect."""
        if has_open_changes(self.job.record):
            first = self.step + 1
            record = await self.ports.jobs.update(self.job.id, lambda old: fix_changes(old, first))
            self.job.update(record)
            if self._is_live:
                await self._widen()

    async def _train(self, step: Step[Ready], *, wait_s: float) -> None:
        began = time.monotonic()
        stale = [staleness(self.step, ready.scored.oldest_version) for ready in step.groups.values()]
        importance = self._importance(step, stale)
        total, number = self._value("total_steps"), self.step + 1
        result = await self._in_compute(
            lambda: self.engine.step(list(step.groups.values()), step=number, total_steps=total, importance=importance)
        )
        stepped = time.monotonic()
        announced = self._announced_version
        stored = await self.publisher.store(self.engine, anchor=False) if number >= announced else None
        self.step = number
        timing = {"wait_s": wait_s, "step_s": stepped - began, "store_s": time.monotonic() - stepped, **result.seconds}
        if number > announced:
            await self.ports.bus.announce(self._step_done(step, stale, result, timing))
        self.assembler.consume(step)
        if stored is not None:
            await self._publish_version(*stored, is_new=number > announced)
        await self._count(step, stale, result, timing)
        await self._after_step()

    def _importance(self, step: Step[Ready], stale: list[int]) -> bool:
        """Whether importance weights are applied: with `auto`, when a group of the step may be stale."""
        setting = self.job.spec.algorithm.importance
        if setting != "auto":
            return setting == "on"
        return self._value("max_staleness") > 0 or any(stale) or min(step.groups) < self._stale_until

    @property
    def _announced_version(self) -> int:
        return -1 if self.publisher.last is None else self.publisher.last.version

    def _step_done(self, step: Step[Ready], stale: list[int], result: StepResult, timing: dict[str, float]) -> StepDone:
        return StepDone(
            job=self.job.id,
            step=self.step,
            incarnation=self.incarnation,
            trained=list(step.groups),
            voided=list(step.lost),
            staleness=stale,
            metrics=result.metrics,
            advantages={ordinal: ready.advantages.tolist() for ordinal, ready in step.groups.items()},
            timing=timing,
            finished_at=time.time(),
        )

    async def _publish_version(self, chain: list[BlobRef], digest: str, *, is_new: bool) -> None:
        """Announce a new version; a replay's last announced one again only if its bits differ (incarnation + 1)."""
        last = self.publisher.last
        assert last is not None
        if is_new:
            if self._evaluates(self.step):
                self.intake.evaluations.announce(self.step)
                await self.ports.bus.announce(EvalDue(job=self.job.id, version=self.step, chain=chain))
            await self._announce(chain, digest)
        elif digest == last.digest:
            self._log.info("replay reached the announced version with equal bits", version=self.step)
        else:
            self.incarnation = last.incarnation + 1
            self._stale_until = last.window_end
            anchor, digest = await self.publisher.store(self.engine, anchor=True)
            self._log.warning("replay differs from the announced version", version=self.step)
            await self._announce(anchor, digest)

    def _evaluates(self, version: int) -> bool:
        spec = self.job.spec
        wanted = is_due(version, self._value("total_steps", version), spec.evaluation.every)
        return bool(spec.data.held_out) and wanted and not self.intake.evaluations.is_announced(version)

    async def _announce(self, chain: list[BlobRef], digest: str) -> None:
        async with self._publishing:
            await self.publisher.announce(
                version=self.step,
                incarnation=self.incarnation,
                chain=chain,
                digest=digest,
                cursor=self.assembler.cursor,
                lost=self.assembler.lost,
                total_steps=self._value("total_steps"),
                prompts_per_step=self.assembler.prompts_per_step,
                max_staleness=self._value("max_staleness"),
            )
            self.status.version = self.step

    @property
    def _is_live(self) -> bool:
        """Whether the replay, if there was one, has reached the last announced version."""
        last = self.publisher.last
        return last is not None and self.step == last.version

    async def _widen(self) -> None:
        """Announce the newest version again when lost groups, or a change, move its window's end."""
        last = self.publisher.last
        if not self._is_live or last is None or self._publishing.locked():
            return
        eta = self._value("max_staleness")
        end = window_end(
            cursor=last.cursor,
            version=last.version,
            total_steps=self._value("total_steps"),
            prompts_per_step=self.assembler.prompts_per_step,
            max_staleness=eta,
            lost=self.assembler.lost,
        )
        if end > last.window_end or eta != last.max_staleness:
            await self._announce(last.chain, last.digest)

    async def _count(self, step: Step[Ready], stale: list[int], result: StepResult, timing: dict[str, float]) -> None:
        """Metrics of the process and the ledger's staleness by source."""
        self.metrics.count_step(timing, result.metrics)
        by_source: dict[str, list[int]] = {}
        for ready, value in zip(step.groups.values(), stale, strict=True):
            by_source.setdefault(ready.scored.prompt.source, []).append(value)
        for source, values in by_source.items():
            await self.ports.ledger.trained(self.job.id, source, values)

    # ---------------------------------------------------------------- checkpoints

    async def _after_step(self) -> None:
        every = self.job.spec.learner.checkpoint_every
        state = await self.ports.bus.stream_state("scored")
        is_full = 0 < state.max_bytes * self.config.journal_share < state.bytes
        if (every and self.step % every == 0) or is_full:
            await self._checkpoint()
        await self._answer_checkpoint()
        needed = {self.checkpoint_version, *self.intake.evaluations.open}
        await self.publisher.delete_before(self.step - self.config.kept_versions + 1, needed)

    async def _answer_checkpoint(self) -> None:
        wanted = self.job.record.checkpoint_wanted
        if wanted > self._answered_checkpoints:
            self._answered_checkpoints = wanted
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        """Write a checkpoint, then purge the journal below what a replay from it, and the monitor, still need."""
        if not self._is_live:
            return
        await self.publisher.fence()
        state = CheckpointState(
            step=self.step,
            cursor=self.assembler.cursor,
            offset=self.assembler.offset(),
            journal_created=self._created,
            incarnation=self.incarnation,
            answered_checkpoints=self._answered_checkpoints,
        )
        keep = self.job.spec.learner.keep_checkpoints
        await self._in_compute(lambda: save(self.engine, self.folder, state, keep=keep))
        self.checkpoint_version = self.step
        floor = await self.ports.bus.journal_floor(self.job.id, "train", "monitor")
        await self.ports.bus.purge("scored", self.job.id, "train", below=min(state.offset, floor + 1))
        self._log.info("checkpoint", step=self.step, cursor=state.cursor, offset=state.offset)

    # ---------------------------------------------------------------- end

    async def _finish(self) -> None:
        """Void what is open, wait for the evaluations, write the last checkpoint, and end the job."""
        self.status.state = "finishing"
        await self._void_open()
        if not self._stopping:
            await self._evaluate_last()
        if self.checkpoint_version != self.step or self.step == 0:
            await self._checkpoint()
        await self.ports.jobs.move(self.job.id, "stopped" if self._stopping else "done")
        await self.ports.bus.forget_job(self.job.id)
        self.status.state = "idle"

    async def _void_open(self) -> None:
        """At a stop, or when the job was shortened: every admitted ordinal that will not be trained on is void."""
        last = self.publisher.last
        if last is None or (not self._stopping and last.window_end <= self.assembler.cursor):
            return
        end = await self._sealed()
        for ordinal in self.assembler.open(end.total):
            source, task = end.open[ordinal]
            await self.intake.publish_void(
                ordinal, "stopped", f"the job ended at step {self.step}", source=source, task=task
            )

    async def _sealed(self) -> EndOfOrder:
        """Ask data to seal the order; returns its word on where."""
        deadline = time.monotonic() + self.config.seal_limit_s
        await self.ports.jobs.update(self.job.id, lambda record: msgspec.structs.replace(record, seal_wanted=True))
        while time.monotonic() < deadline:
            self.intake.bell.clear()
            if self.intake.end_of_order is not None:
                return self.intake.end_of_order
            await self._wait_bell(1.0)
        raise Unavailable(f"data has not sealed the order of job {self.job.id} within {self.config.seal_limit_s:g} s")

    async def _evaluate_last(self) -> None:
        """Have the last version evaluated if it was not yet, and wait until every evaluation is done."""
        last, evaluations = self.publisher.last, self.intake.evaluations
        if last is not None and self.job.spec.data.held_out and not evaluations.is_announced(self.step):
            evaluations.announce(self.step)
            await self.ports.bus.announce(EvalDue(job=self.job.id, version=self.step, chain=last.chain))
        while evaluations.open and not self._stopping:
            self.intake.bell.clear()
            await self._wait_bell(5.0)

    async def _in_compute(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the one thread that computes, so that the bus goes on beside it."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, work)
