"""Which version the weights are at, and what the world is told of it: the version, its window, its evaluation."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from opentelemetry import trace

from services.learner.engine import Engine
from services.learner.handlers import Intake
from services.learner.publishing.evaluations import is_due
from services.learner.publishing.exports import Exports, Stored
from services.learner.publishing.publisher import Publisher
from services.learner.steps.changes import value_at
from shared.blobs.snapshot import Snapshot
from shared.blobs.weights import WeightsStore
from shared.jobs.following import ActiveJob
from shared.messages import EvalDone, EvalDue, WeightsPublished
from shared.runtime.logging import get_logger
from shared.runtime.moments import passing
from shared.runtime.retry import BLOB_STORE
from shared.service import Ports, Status
from shared.staleness import window_end

Result = TypeVar("Result")
InCompute = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs work in the one thread that computes."""


class Versions:
    """The learner's step and its announcements; while it replays steps that were announced, it announces nothing."""

    def __init__(
        self, job: ActiveJob, ports: Ports, engine: Engine, intake: Intake, status: Status, in_compute: InCompute
    ) -> None:
        self.progress = intake.assembler.progress
        self.publisher = Publisher(ports.bus, ports.ledger, job.id)
        blobs = ports.blobs.of(job.id)
        store = WeightsStore(blobs, ports.settings.weights)
        self.exports = Exports(engine, blobs, store, job.spec.learner.anchor_every)
        self._retry = ports.retry
        self._job, self._bus, self._engine, self._intake, self._status = job, ports.bus, engine, intake, status
        self._in_compute = in_compute
        self._storing = ThreadPoolExecutor(1, "publish")
        self._publishing = asyncio.Lock()
        self._beside: asyncio.Task[None] | None = None
        self._announced_at: dict[int, int] = {}  # version -> sequence of its first announcement
        self._log = get_logger(job=job.id)

    @property
    def step(self) -> int:
        """The training step that made the weights as they are now."""
        return self.progress.step

    @property
    def announced(self) -> int:
        """The newest announced version; -1 when there is none."""
        return -1 if self.publisher.last is None else self.publisher.last.version

    @property
    def is_replaying(self) -> bool:
        """Whether steps that were announced before are being computed again."""
        return self.step < self.announced

    @property
    def is_live(self) -> bool:
        """Whether the newest announced version is this learner's."""
        return self.step == self.announced

    def value(self, key: str, step: int | None = None) -> int:
        """`total_steps` or `max_staleness` as it holds for training step `step` (default: the next one)."""
        return value_at(self._job.spec, self._job.record.changes, key, self.step + 1 if step is None else step)

    async def recover(self) -> WeightsPublished | None:
        """Continue the announcements of an earlier learner; None: there was none."""
        for name in ("eval-due", "eval-done"):
            found = await self._bus.last_event(self._job.id, name)
            if found is not None:
                await self._intake.on_event(found[0])
        last = await self.publisher.recover()
        announced = await self.publisher.announcements()
        for message in announced:
            self._admit(message)
        published = {message.version: message.manifest for message in announced}
        await self._from_store(partial(self.exports.recover, published))
        return last

    async def snapshot(self) -> Snapshot:
        """The weights as they are now, in a file of this host; nothing is computed while it is written."""
        return await self._retry.until_back(BLOB_STORE, lambda: self._in_compute(self.exports.snapshot))

    def publish_beside(
        self,
        tasks: asyncio.TaskGroup,
        snapshot: Snapshot,
        is_told: asyncio.Event,
        *,
        is_new: bool,
        then: Callable[[], Awaitable[None]],
    ) -> None:
        """Store the version of `step`, announce it once its step `is_told`, `then` tidy up.

        The next step may be computed meanwhile; `step` and the cursor stay until this version is `settled`. `is_new`:
        it was not announced before.
        """

        async def publish() -> None:
            stored = await self._store(snapshot)
            passing("weights-stored")
            await is_told.wait()
            await self.publish(stored, is_new=is_new)
            await then()

        self._beside = tasks.create_task(publish())

    async def settled(self) -> None:
        """Return once the last version is announced: the next one is a delta on it.

        Where it fails, the task group that it belongs to ends its caller.
        """
        if self._beside is not None:
            await asyncio.wait({self._beside})

    async def _store(self, snapshot: Snapshot) -> Stored:
        """Put the weights of `step` into the blob store; a version that was announced only if its bits differ."""
        announced = self.publisher.last if self.is_live else None
        try:
            return await self._from_store(partial(self.exports.store, snapshot, self.step, announced))
        finally:
            self._storing.submit(snapshot.discard)  # after a store that goes on in its thread

    async def heal(self) -> None:
        """Announce the newest version as an anchor when blobs of its announcement are gone."""
        last = self.publisher.last
        if self.is_live and last is not None and not await self._from_store(partial(self.exports.has, last.manifest)):
            self._log.warning("blobs of the announced version are gone: announced again", version=self.step)
            await self._announce(await self._store(await self.snapshot()))

    async def delete_before(self, version: int, needed: set[int]) -> None:
        """Delete the blobs of versions below `version` that are not in `needed`."""
        await self._from_store(partial(self.exports.delete_before, version, needed))

    async def _from_store(self, work: Callable[[], Result]) -> Result:
        """Blocking work with the blob store, which is waited for; one at a time."""
        loop = asyncio.get_running_loop()
        return await self._retry.until_back(BLOB_STORE, lambda: loop.run_in_executor(self._storing, work))

    async def fence(self) -> None:
        """Write the last announcement again, before what can't be undone; raises Refused when it is not ours."""
        async with self._publishing:
            await self.publisher.fence()

    async def announce_first(self) -> None:
        """Publish the first weights of this job's log, and have those of version 0 evaluated."""
        await self._announce(await self._store(await self.snapshot()))
        if self.step == 0:  # else an imported run, whose history has its evaluations
            await self.evaluate_if_due()

    async def publish(self, stored: Stored, *, is_new: bool) -> None:
        """Announce the version of `step`; a replay's last one again only if its bits, or its blobs, are others."""
        last = self.publisher.last
        assert last is not None
        if is_new:
            await self._announce(stored)
            await self.evaluate_if_due()
            return
        if stored.digest == last.digest:
            self.progress.incarnation, self.progress.stale_until = last.incarnation, last.stale_until
            self._log.info("replay reached the announced version with equal bits", version=self.step)
        else:
            self.progress.incarnation, self.progress.stale_until = last.incarnation + 1, last.window_end
            self._log.warning("replay differs from the announced version", version=self.step)
        if stored.manifest != last.manifest:
            await self._announce(stored)
        await self.evaluate_if_due()

    async def evaluate_if_due(self) -> None:
        """Have the announced version evaluated if it is its turn; one that died before it said so says it now."""
        if self.is_live and is_due(self.step, self.value("total_steps", self.step), self._job.spec.evaluation.every):
            await self.evaluate()

    async def evaluate(self) -> None:
        """Have the announced version evaluated, unless that was asked before or there is no held-out set."""
        evaluations, last = self._intake.evaluations, self.publisher.last
        if last is not None and self._job.spec.data.held_out and not evaluations.is_announced(last.version):
            evaluations.announce(last.version, last.incarnation)
            await self._bus.announce(
                EvalDue(job=self._job.id, version=last.version, manifest=last.manifest, incarnation=last.incarnation)
            )

    def first_needed(self, versions: Iterable[int]) -> int:
        """The sequence in the events of the first announcement of any of these; 0 when one is not known."""
        return min((self._announced_at.get(version, 0) for version in versions), default=0)

    async def finish_evaluations(self) -> None:
        """Announce every evaluation whose groups have all arrived as done."""
        for one in self._intake.evaluations.complete():
            await self._bus.announce(EvalDone(job=self._job.id, **one._asdict()))
            self._intake.evaluations.finish(one.version)
            self._intake.bell.set()

    async def look_ahead(self, cursor: int) -> None:
        """On-policy, while the next version is being computed: let its prompts go out to wait for it.

        `cursor`: the first ordinal that is not consumed once its step is. Off-policy there are prompts all the time.
        """
        if not self.is_live or self.value("max_staleness") or self._job.record.state != "running":
            return
        async with self._publishing:
            await self.publisher.look_ahead(self._window_end(self.step + 1, cursor, lost=0))

    async def widen(self) -> None:
        """Announce the newest version again when lost groups, or a change, move its window's end."""
        await self.publisher.refresh()
        last = self.publisher.last
        if not self.is_live or last is None or self._publishing.locked():
            return
        end = self._window_end(last.version, last.cursor, lost=self._lost(last.version))
        if end > last.window_end or self.value("max_staleness") != last.max_staleness:
            await self._announce(Stored(last.manifest, last.digest, last.sync))

    def _window_end(self, version: int, cursor: int, *, lost: int) -> int:
        return window_end(
            cursor=cursor,
            version=version,
            total_steps=self.value("total_steps"),
            prompts_per_step=self._intake.assembler.prompts_per_step,
            max_staleness=self.value("max_staleness"),
            lost=lost,
        )

    async def _announce(self, stored: Stored) -> None:
        version, cursor = self.step, self._intake.assembler.cursor
        attributes: dict[str, str | int] = {"triune.job": self._job.id, "triune.version": version}
        async with self._publishing:
            with trace.get_tracer("triune").start_as_current_span("weights.publish", attributes=attributes):
                await self.publisher.announce(
                    version=version,
                    incarnation=self.progress.incarnation,
                    stored=stored,
                    cursor=cursor,
                    window_end=self._window_end(version, cursor, lost=self._lost(version)),
                    total_steps=self.value("total_steps"),
                    max_staleness=self.value("max_staleness"),
                    stale_until=self.progress.stale_until,
                )
            if self.publisher.last is not None:
                self._admit(self.publisher.last)
            self._announced_at.setdefault(version, self.publisher.sequence)
            self._status.version = version

    def _lost(self, version: int) -> int:
        """What widens the window of `version`: lost groups that it admits, not those that wait for the next one."""
        last = self.publisher.last
        end = last.window_end if last is not None and last.version == version else None
        return self._intake.assembler.lost(end)

    def _admit(self, message: WeightsPublished) -> None:
        self._intake.assembler.admit(message.window_end, message.version + message.max_staleness)

    def close(self) -> None:
        """Let go of the host's files, once nothing is being stored; blocks."""
        self._storing.shutdown(wait=True)
        self.exports.close()
