"""One job from its first to its last step: a fold over the journal.

The state after step s follows from the initial weights, the job file, its changes and the journal. After a restart the
last checkpoint is loaded and the journal replayed from its offset; steps whose version was already announced are
computed again and not announced again.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import msgspec
from opentelemetry import trace

from services.learner.algorithms.objective import can_differ
from services.learner.algorithms.step import over_step
from services.learner.assembler import Assembler, Lost, Step
from services.learner.attention.batch import Ready
from services.learner.barren import give_up, longest_row
from services.learner.changes import fix_changes, has_open_changes
from services.learner.config import LearnerConfig
from services.learner.engine import Engine, Ingest, StepResult, StepWork
from services.learner.handlers import FILTER_CAP, Intake, read_evaluations, read_training
from services.learner.metrics import LearnerMetrics
from services.learner.progress import Progress
from services.learner.saving import Saving
from services.learner.versions import Versions
from shared.errors import Unavailable, one_error
from shared.jobs.following import ActiveJob
from shared.jobs.record import ACTIVE, IllegalMove, JobRecord
from shared.log.reading import read_events
from shared.messages import EndOfOrder, StepDone
from shared.runtime.logging import get_logger
from shared.runtime.moments import passing
from shared.service import Ports, Status
from shared.staleness import staleness

Result = TypeVar("Result")


class Training:
    """The learner's work on one job."""

    def __init__(
        self,
        job: ActiveJob,
        ports: Ports,
        ingest: Ingest,
        engine: Engine,
        config: LearnerConfig,
        status: Status,
        metrics: LearnerMetrics,
    ) -> None:
        self._job, self._ports, self._engine, self._config = job, ports, engine, config
        self._status, self._metrics = status, metrics
        algorithm = job.spec.algorithm
        size = algorithm.prompts_per_step
        filter_cap = FILTER_CAP * size if algorithm.drop_uniform_groups else 0
        assembler: Assembler[Ready] = Assembler(Progress(), size, filter_cap)
        self._intake = Intake(job.id, ports.bus, ports.blobs, ingest, assembler, ports.retry)
        self._compute = ThreadPoolExecutor(1, "compute")
        self.versions = Versions(job, ports, engine, self._intake, status, self._in_compute)
        self._saving = Saving(job, ports, engine, self._intake, self.versions, config)
        self._passed_over: list[Lost] = []  # until the first step is made
        self._log = get_logger(job=job.id)

    async def run(self) -> None:
        """Train, evaluate and finish the job; raises TriuneError when it cannot go on."""
        self._status.state = "loading"
        try:
            await self._restore()
            with one_error():
                await self._work()
        finally:
            self._intake.close()
            await asyncio.to_thread(self._release)

    def _release(self) -> None:
        """Let go of the model once nothing computes any more, so that no second one is loaded beside it."""
        self._compute.shutdown(wait=True, cancel_futures=True)
        self._engine.close()
        self.versions.exports.close()

    async def _restore(self) -> None:
        """Load the model, the last checkpoint and the last announcement, and hear which steps were told behind it."""
        await self._saving.restore(self._in_compute)
        progress, assembler = self.versions.progress, self._intake.assembler
        told = read_events(self._ports.bus, self._job.id, "step", start=progress.told + 1)
        assembler.script = {step.step: step async for step, _ in told if isinstance(step, StepDone)}
        last = await self.versions.recover()
        if last is None:
            await self.versions.announce_first()
        else:
            self._log.info("recovered", step=progress.step, announced=last.version)
            await self.versions.heal()
            await self.versions.evaluate_if_due()

    async def _work(self) -> None:
        limit, start = self._config.fetch_records, self.versions.progress.offset
        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(read_training(self._intake, start, limit, self.versions.widen)),
                group.create_task(read_evaluations(self._intake, limit, self.versions.finish_evaluations)),
                group.create_task(self._listen()),
                group.create_task(self._watch_job()),
            ]
            while True:
                self._status.state = "training"
                await self._train_all()
                if await self._has_finished():
                    break
            for reader in readers:
                reader.cancel()

    # ---------------------------------------------------------------- what wakes it

    async def _listen(self) -> None:
        async for event, _ in self._ports.bus.events(self._job.id, "end-of-order", "eval-due", "eval-done"):
            await self._intake.on_event(event)
            await self.versions.finish_evaluations()
            self._intake.bell.set()

    async def _watch_job(self) -> None:
        while True:
            await self._job.changed(1.0)
            self._intake.bell.set()

    # ---------------------------------------------------------------- steps

    @property
    def _stopping(self) -> bool:
        return self._job.record.state == "stopping"

    @property
    def _goes_on(self) -> bool:
        """Whether there is a step to make; what was announced is replayed even when the job is stopping."""
        if self.versions.is_replaying or self._intake.assembler.is_told:
            return True
        total = self.versions.value("total_steps")
        return not self._stopping and self.versions.step < total and not self._intake.assembler.exhausted

    async def _train_all(self) -> None:
        while self._goes_on:
            began = time.monotonic()
            step = await self._next_step()
            if step is None:
                return
            links = self._intake.take_links(step.cursor)
            if step.groups:
                wait_s = time.monotonic() - began
                with trace.get_tracer("triune").start_as_current_span("learner.step", links=links):
                    await self._train(step, wait_s=wait_s)
            else:
                await self._intake.give_up(step.lost)
                self._pass(step)

    def _pass(self, step: Step[Ready]) -> None:
        """The step's groups are behind us; why there is no step yet is remembered until there is one."""
        self._passed_over = [] if self.versions.step else [*self._passed_over, *step.lost.values()]
        self._intake.consume(step)

    async def _next_step(self) -> Step[Ready] | None:
        """Wait for the groups of the next step; None when there is none to make any more."""
        while self._goes_on:
            await self._fix_changes()
            self._intake.bell.clear()
            step = self._intake.assembler.next_step()
            if step is not None:
                return step
            await self._end_a_barren_job()
            await self._saving.answer(self._in_compute)
            await self._wait_bell(5.0)
        return None

    async def _fix_changes(self) -> None:
        """Fix open changes to hold from the next step, in the record, before they take effect."""
        if has_open_changes(self._job.record) and not self.versions.is_replaying and not self._intake.assembler.is_told:
            first = self.versions.step + 1
            record = await self._ports.jobs.update(self._job.id, lambda old: fix_changes(old, first))
            self._job.update(record)
            await self.versions.widen()

    async def _train(self, step: Step[Ready], *, wait_s: float) -> None:
        """One training step: update, tell what it consumed, publish its version.

        The step is told before its version is: a learner killed in between tells it again, and the monitor counts one.
        """
        versions, number, announced = self.versions, self.versions.step + 1, self.versions.announced
        told = self._intake.assembler.script.get(number)
        stale = [staleness(versions.step, ready.scored.oldest_version) for ready in step.groups.values()]
        total = versions.value("total_steps")
        importance = self._importance(step, stale) if told is None else told.importance
        groups = over_step(list(step.groups.values()), self._job.spec.algorithm)
        work = StepWork(number, total, importance, groups)
        began = time.monotonic()
        result = await self._in_compute(lambda: self._engine.step(work))
        stepped = time.monotonic()
        stored = await versions.store(number) if number >= announced else None
        passing("weights-stored")
        versions.progress.step = number
        timing = {"wait_s": wait_s, "step_s": stepped - began, "store_s": time.monotonic() - stepped, **result.seconds}
        if told is None:
            await self._intake.give_up(step.lost)
            await self._ports.bus.announce(self._step_done(step, groups, stale, importance, result, timing))
            passing("step-told")
        self._pass(step)
        if stored is not None:
            await versions.publish(stored, is_new=number > announced)
        await self._count(step, stale, result, timing)
        await self._saving.after_step(self._in_compute)

    def _importance(self, step: Step[Ready], stale: list[int]) -> bool:
        """Whether the sampler is corrected for: with `auto`, when it can be another policy than the learner's."""
        setting = self._job.spec.algorithm.importance
        if setting != "auto":
            return setting == "on"
        if can_differ(self._job.spec):
            return True
        is_mixed = any(stale) or min(step.groups) < self.versions.progress.stale_until
        return is_mixed or self.versions.value("max_staleness") > 0

    def _step_done(
        self,
        step: Step[Ready],
        groups: Sequence[Ready],
        stale: list[int],
        importance: bool,
        result: StepResult,
        timing: dict[str, float],
    ) -> StepDone:
        return StepDone(
            job=self._job.id,
            step=self.versions.step,
            incarnation=self.versions.progress.incarnation,
            trained=list(step.groups),
            voided=list(step.lost),
            staleness=stale,
            metrics=result.metrics,
            advantages={ready.ordinal: ready.advantages.tolist() for ready in groups},
            timing=timing,
            finished_at=time.time(),
            importance=importance,
        )

    async def _count(self, step: Step[Ready], stale: list[int], result: StepResult, timing: dict[str, float]) -> None:
        """Metrics of the process and the ledger's staleness by source."""
        self._metrics.count_step(timing, result.metrics)
        by_source: dict[str, list[int]] = {}
        for ready, value in zip(step.groups.values(), stale, strict=True):
            by_source.setdefault(ready.scored.prompt.source, []).append(value)
        with contextlib.suppress(Unavailable):  # the ledger is a view
            for source, values in by_source.items():
                await self._ports.ledger.trained(self._job.id, source, values)

    # ---------------------------------------------------------------- end

    async def _end_a_barren_job(self) -> None:
        """Raises NothingUsable when so many groups in a row are void that waiting for a good one burns the data."""
        assembler, data = self._intake.assembler, self._job.record.data
        length = longest_row(
            max_staleness=self.versions.value("max_staleness"),
            prompts_per_step=assembler.prompts_per_step,
            first_pass=data.groups if data is not None and self.versions.step == 0 else None,
        )
        row = {} if assembler.is_told else assembler.row_of_lost(length)
        if row:
            await self._intake.give_up(row)
            raise give_up(f"{length} groups in a row cannot be trained on", row.values())

    async def _has_finished(self) -> bool:
        """Wait for the evaluations, void what is open, write the last checkpoint, and end the job.

        False when the job was changed in the meantime and goes on. Once it has said that it ends, no change holds.
        """
        self._status.state = "finishing"
        if not self._stopping:
            await self._evaluate_last()
        while self._job.record.state == "paused":
            await self._job.changed(1.0)
        if self._goes_on or not await self._has_begun_to_end():
            return False
        await self._void_open()
        await self._saving.finish(self._in_compute)
        if self.versions.step == 0 and not self._stopping:
            raise give_up("the job has no training step: no group of its order can be trained on", self._passed_over)
        await self._end()
        await self._ports.bus.forget_job(self._job.id)
        self._status.state = "idle"
        return True

    async def _has_begun_to_end(self) -> bool:
        """Put on record that the job ends now, unless a change is waiting that may let it go on."""

        def begin(record: JobRecord) -> JobRecord:
            if record.state != "stopping" and has_open_changes(record):
                return record
            return msgspec.structs.replace(record, ending=True)

        record = await self._ports.jobs.update(self._job.id, begin)
        self._job.update(record)
        return record.ending

    async def _end(self) -> None:
        """Take the job to its last state, whatever somebody makes of it at the same moment."""
        while (record := await self._ports.jobs.get(self._job.id)) is not None and record.state in ACTIVE:
            if record.state == "paused":
                await self._job.changed(1.0)
                continue
            with contextlib.suppress(IllegalMove):  # it was moved in between: look again
                await self._ports.jobs.move(self._job.id, "stopped" if record.state == "stopping" else "done")

    async def _void_open(self) -> None:
        """At a stop, or when the job was shortened: every admitted ordinal that will not be trained on is void."""
        last, assembler = self.versions.publisher.last, self._intake.assembler
        if last is None or (not self._stopping and last.window_end <= assembler.cursor):
            return
        end = await self._sealed()
        stopped = partial(Lost, "stopped", f"the job ended at step {self.versions.step}", is_ours=True)
        await self._intake.give_up(
            {ordinal: why or stopped(*end.open[ordinal]) for ordinal, why in assembler.open(end.total).items()}
        )

    async def _sealed(self) -> EndOfOrder:
        """Ask data to seal the order; returns its word on where."""
        await self._ports.jobs.update(self._job.id, lambda record: msgspec.structs.replace(record, seal_wanted=True))
        while self._intake.end_of_order is None:
            self._intake.bell.clear()
            if self._intake.end_of_order is None:
                self._status.state = "waiting for data to seal the order"
                await self._wait_bell(1.0)
        return self._intake.end_of_order

    async def _evaluate_last(self) -> None:
        """Have the last version evaluated if it was not yet, and wait until every evaluation is done."""
        await self.versions.evaluate()
        while self._intake.evaluations.open and not self._stopping:
            await self._fix_changes()
            if self._goes_on:
                return
            self._intake.bell.clear()
            await self._wait_bell(5.0)

    # ---------------------------------------------------------------- helpers

    async def _wait_bell(self, limit_s: float) -> None:
        """Return when something has arrived or changed, or after `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                await self._intake.bell.wait()
        except TimeoutError:
            return

    async def _in_compute(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the one thread that computes, so that the bus goes on beside it."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, work)
