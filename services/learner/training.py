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
from typing import TypeVar

import msgspec
from opentelemetry import trace

from services.learner.algorithms.objective import can_differ
from services.learner.algorithms.step import over_step
from services.learner.assembler import Assembler, Step
from services.learner.attention.batch import Ready
from services.learner.changes import fix_changes, has_open_changes
from services.learner.config import LearnerConfig
from services.learner.engine import Engine, Ingest, StepResult, StepWork
from services.learner.handlers import Intake, read_evaluations, read_training
from services.learner.metrics import LearnerMetrics
from services.learner.saving import Saving
from services.learner.versions import Versions
from shared.errors import Unavailable, one_error
from shared.jobs.following import ActiveJob
from shared.jobs.record import ACTIVE, IllegalMove
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
        self._intake = Intake(
            job.id,
            ports.bus,
            ports.blobs,
            ingest,
            Assembler(algorithm.prompts_per_step),
            algorithm.drop_uniform_groups,
        )
        self._compute = ThreadPoolExecutor(1, "compute")
        self.versions = Versions(job, ports, engine, self._intake, status, self._in_compute)
        self._saving = Saving(job, ports, engine, self._intake, self.versions, config)
        self._log = get_logger(job=job.id)

    async def run(self) -> None:
        """Train, evaluate and finish the job; raises TriuneError when it cannot go on."""
        self._status.state = "loading"
        try:
            start = await self._restore()
            with one_error():
                await self._work(start)
        finally:
            self._intake.close()
            # The thread is waited for, so that no second model is loaded beside one that still computes.
            await asyncio.to_thread(self._compute.shutdown, wait=True, cancel_futures=True)
            self._engine.close()
            await asyncio.to_thread(self.versions.exports.close)

    async def _restore(self) -> int:
        """Load the model, the last checkpoint and the last announcement; returns the journal sequence to read from."""
        start = await self._saving.restore(self._in_compute)
        last = await self.versions.recover()
        if last is None:
            await self.versions.announce_first()
        else:
            self._log.info("recovered", step=self.versions.step, announced=last.version)
            journal = await self._ports.bus.stream_state("scored")
            await self._intake.recall(start, last.cursor, journal.last_sequence, self._config.fetch_records)
            await self.versions.heal()
        return start

    async def _work(self, start: int) -> None:
        limit = self._config.fetch_records
        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(read_training(self._intake, start, limit, self.versions.widen)),
                group.create_task(read_evaluations(self._intake, limit, self.versions.finish_evaluations)),
                group.create_task(self._listen()),
                group.create_task(self._watch_job()),
            ]
            self._status.state = "training"
            await self._train_all()
            await self._finish()
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
        if self.versions.is_replaying:
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
                self._intake.consume(step)

    async def _next_step(self) -> Step[Ready] | None:
        """Wait for the groups of the next step; None when there is none to make any more."""
        while self._goes_on:
            await self._fix_changes()
            self._intake.bell.clear()
            step = self._intake.assembler.next_step()
            if step is not None:
                return step
            await self._saving.answer(self._in_compute)
            await self._wait_bell(5.0)
        return None

    async def _fix_changes(self) -> None:
        """Fix open changes to hold from the next step, in the record, before they take effect."""
        if has_open_changes(self._job.record) and not self.versions.is_replaying:
            first = self.versions.step + 1
            record = await self._ports.jobs.update(self._job.id, lambda old: fix_changes(old, first))
            self._job.update(record)
            await self.versions.widen()

    async def _train(self, step: Step[Ready], *, wait_s: float) -> None:
        """One training step: update, tell what it consumed, publish its version.

        The step is told before its version is: a learner killed in between tells it again, and the monitor counts one.
        """
        versions, number, announced = self.versions, self.versions.step + 1, self.versions.announced
        stale = [staleness(versions.step, ready.scored.oldest_version) for ready in step.groups.values()]
        total, importance = versions.value("total_steps"), self._importance(step, stale)
        groups = over_step(list(step.groups.values()), self._job.spec.algorithm)
        work = StepWork(number, total, importance, groups)
        began = time.monotonic()
        result = await self._in_compute(lambda: self._engine.step(work))
        stepped = time.monotonic()
        stored = await versions.store(number) if number >= announced else None
        passing("weights-stored")
        versions.step = number
        timing = {"wait_s": wait_s, "step_s": stepped - began, "store_s": time.monotonic() - stepped, **result.seconds}
        if number > announced:
            await self._ports.bus.announce(self._step_done(step, groups, stale, result, timing))
            passing("step-told")
        self._intake.consume(step)
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
        return self.versions.value("max_staleness") > 0 or any(stale) or min(step.groups) < self.versions.stale_until

    def _step_done(
        self,
        step: Step[Ready],
        groups: Sequence[Ready],
        stale: list[int],
        result: StepResult,
        timing: dict[str, float],
    ) -> StepDone:
        return StepDone(
            job=self._job.id,
            step=self.versions.step,
            incarnation=self.versions.incarnation,
            trained=list(step.groups),
            voided=list(step.lost),
            staleness=stale,
            metrics=result.metrics,
            advantages={ready.ordinal: ready.advantages.tolist() for ready in groups},
            timing=timing,
            finished_at=time.time(),
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

    async def _finish(self) -> None:
        """Void what is open, wait for the evaluations, write the last checkpoint, and end the job."""
        self._status.state = "finishing"
        await self._void_open()
        if not self._stopping:
            await self._evaluate_last()
        while self._job.record.state == "paused":
            await self._job.changed(1.0)
        await self._saving.finish(self._in_compute)
        await self._end()
        await self._ports.bus.forget_job(self._job.id)
        self._status.state = "idle"

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
        for ordinal in assembler.open(end.total):
            source, task = end.open[ordinal]
            detail = f"the job ended at step {self.versions.step}"
            await self._intake.publish_void(ordinal, "stopped", detail, source=source, task=task)

    async def _sealed(self) -> EndOfOrder:
        """Ask data to seal the order; returns its word on where."""
        deadline = time.monotonic() + self._config.seal_limit_s
        await self._ports.jobs.update(self._job.id, lambda record: msgspec.structs.replace(record, seal_wanted=True))
        while time.monotonic() < deadline:
            self._intake.bell.clear()
            if self._intake.end_of_order is not None:
                return self._intake.end_of_order
            await self._wait_bell(1.0)
        raise Unavailable(f"data has not sealed the order of job {self._job.id} within {self._config.seal_limit_s:g} s")

    async def _evaluate_last(self) -> None:
        """Have the last version evaluated if it was not yet, and wait until every evaluation is done."""
        last = self.versions.publisher.last
        if last is not None:
            await self.versions.evaluate(last.manifest)
        while self._intake.evaluations.open and not self._stopping:
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
