"""One job from its first to its last step: a fold over the journal.

The state after step s follows from the initial weights, the job file, its changes and the journal. After a restart the
last checkpoint is loaded and the journal replayed from its offset; steps whose version was already announced are
computed again and not announced again.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from opentelemetry import trace

from services.learner.algorithms.step import over_step
from services.learner.attention.batch import Ready
from services.learner.checkpoints.progress import Progress
from services.learner.checkpoints.saving import Saving
from services.learner.config import LearnerConfig
from services.learner.device import SharedDevice
from services.learner.ending import Ending
from services.learner.engine import Engine, Ingest, StepResult, StepWork
from services.learner.handlers import FILTER_CAP, Intake, read_evaluations, read_training
from services.learner.metrics import LearnerMetrics
from services.learner.overlap import Overlap
from services.learner.publishing.versions import Versions
from services.learner.steps.assembler import Assembler, Lost, Step
from services.learner.steps.barren import give_up, longest_row
from services.learner.steps.by_arrival import ByArrival, early
from services.learner.steps.course import Course
from shared.blobs.snapshot import Snapshot
from shared.errors import Unavailable, one_error
from shared.jobs.following import ActiveJob
from shared.log.reading import read_events
from shared.messages import Portion, StepDone
from shared.runtime.logging import get_logger
from shared.runtime.moments import passing
from shared.service import Ports, Status

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
        make: type[Assembler[Ready]] = ByArrival if algorithm.order == "arrival" else Assembler
        assembler = make(Progress(), size, filter_cap)
        self._intake = Intake(job.id, ports.bus, ports.blobs, ingest, assembler, ports.retry)
        self._compute = ThreadPoolExecutor(1, "compute")
        self.versions = Versions(job, ports, engine, self._intake, status, self._in_compute)
        self._saving = Saving(job, ports, engine, self._intake, self.versions, config)
        self._device = (
            SharedDevice(
                ports.bus,
                job.id,
                engine,
                status,
                job.spec.rollout.group_deadline_s + config.device_limit_s,
                self._in_compute,
            )
            if job.spec.rollout.shares_device
            else None
        )
        self._course = Course(job, ports.jobs, self._intake, self.versions)
        self._overlap = Overlap(job.spec, engine, assembler, self._course, self._in_compute)
        self._ending = Ending(job, ports, self._course, self._intake, self.versions, self._saving, status)
        self._passed_over: list[Lost] = []  # until the first step is made
        self._log = get_logger(job=job.id)

    async def run(self) -> None:
        """Train, evaluate and finish the job; raises TriuneError when it cannot go on."""
        self._status.state = "loading"
        try:
            async with self._turn():
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
        self.versions.close()

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
            self._tasks = group
            readers = [
                group.create_task(read_training(self._intake, start, limit, self.versions.widen)),
                group.create_task(read_evaluations(self._intake, limit, self.versions.finish_evaluations)),
                group.create_task(self._listen()),
                group.create_task(self._watch_job()),
            ]
            while True:
                self._status.state = "training"
                await self._train_all()
                if await self._ending.has_finished(self._in_compute, self._passed_over):
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

    async def _train_all(self) -> None:
        while self._course.goes_on:
            began = time.monotonic()
            step = await self._next_step()
            if step is None:
                return
            links = self._intake.take_links(step.ordinals)
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
        while True:
            await self._course.fix_changes()
            if not self._course.goes_on:
                return None
            self._intake.bell.clear()
            step = self._intake.assembler.next_step()
            if step is not None:
                return step
            await self._end_a_barren_job()
            await self._saving.answer(self._in_compute)
            if not await self._overlap.go_on():
                await self._intake.news(5.0)

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

    async def _train(self, step: Step[Ready], *, wait_s: float) -> None:
        """One training step: update, tell what it consumed, publish its version beside the next step.

        The step is told before its version is, which is being stored meanwhile: a learner killed in between makes it of
        the same groups again.
        """
        versions, number = self.versions, self.versions.step + 1
        told = self._intake.assembler.script.get(number)
        stale = self._course.staleness(step.groups)
        total = versions.value("total_steps")
        importance = self._course.importance(step.groups) if told is None else told.importance
        portions, overlap_s = self._overlap.take(importance=importance) if told is None else (told.portions, 0.0)
        groups = over_step(list(step.groups.values()), self._job.spec.algorithm)
        work = StepWork(number, total, importance, groups, [portion.ordinals for portion in portions])
        if told is None:
            self._tasks.create_task(versions.look_ahead(self._intake.assembler.place_after(step)[0]))
        result, snapshot, timing = await self._update(work)
        timing["wait_s"] = wait_s - overlap_s
        if self._overlap.is_on:
            timing["overlap_s"] = overlap_s
        versions.progress.step, announced = number, versions.announced
        is_told = asyncio.Event()
        if snapshot is not None:
            is_new = number > announced
            versions.publish_beside(self._tasks, snapshot, is_told, is_new=is_new, then=self._saving.drop_old)
        if told is None:
            await self._intake.give_up(step.lost)
            await self._ports.bus.announce(self._step_done(step, work, portions, stale, result, timing))
            passing("step-told")
        self._pass(step)
        is_told.set()
        if number == announced:  # whether its groups count as stale is known only then
            await versions.settled()
        await self._count(step, stale, result, timing)
        await self._saving.after_step(self._in_compute)

    async def _update(self, work: StepWork) -> tuple[StepResult, Snapshot | None, dict[str, float]]:
        """The step, on the learner's device; the weights that it makes, unless newer ones are announced; its timing."""
        versions = self.versions
        with contextlib.ExitStack() as undo:
            async with self._turn():
                began = time.monotonic()
                result = await self._in_compute(lambda: self._engine.step(work))
                stepped = time.monotonic()
                await versions.settled()
                snapshot = await versions.snapshot() if work.step >= versions.announced else None
                if snapshot is not None:
                    undo.callback(snapshot.discard)
            undo.pop_all()
        timing = {"step_s": stepped - began, "store_s": time.monotonic() - stepped}
        return result, snapshot, timing | result.seconds

    def _step_done(
        self,
        step: Step[Ready],
        work: StepWork,
        portions: list[Portion],
        stale: list[int],
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
            metrics=result.metrics | self._early(step),
            advantages={ready.ordinal: ready.advantages.tolist() for ready in work.groups},
            timing=timing,
            finished_at=time.time(),
            importance=work.importance,
            portions=portions,
        )

    def _early(self, step: Step[Ready]) -> dict[str, float]:
        """Of an order by arrival: what the step took before its turn."""
        if self._job.spec.algorithm.order != "arrival":
            return {}
        cursor, _ = self._intake.assembler.place_after(step)
        counts = early(step.groups, cursor)
        self._log.info("trained before their turn", step=self.versions.step, **counts)
        return counts

    async def _count(self, step: Step[Ready], stale: list[int], result: StepResult, timing: dict[str, float]) -> None:
        """Metrics of the process and the ledger's staleness by source."""
        self._metrics.count_step(timing, result.metrics)
        by_source: dict[str, list[int]] = {}
        for ready, value in zip(step.groups.values(), stale, strict=True):
            by_source.setdefault(ready.scored.prompt.source, []).append(value)
        with contextlib.suppress(Unavailable):  # the ledger is a view
            await self._ports.ledger.trained(self._job.id, by_source)

    # ---------------------------------------------------------------- helpers

    def _turn(self) -> AbstractAsyncContextManager[None]:
        """Inside, the learner has its device."""
        return contextlib.nullcontext() if self._device is None else self._device.turn()

    async def _in_compute(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the one thread that computes, so that the bus goes on beside it."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, work)
