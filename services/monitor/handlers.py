"""Reading one job's streams into its store: commit, then ack, then tell.

`on_batch` is what happens to each batch; the fold says what happens to each message.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import msgspec

from services.monitor.analysis.report import FEW_GROUPS, build_report
from services.monitor.config import MonitorConfig
from services.monitor.exports.curves import draw_curves
from services.monitor.exports.feeding import Feeds
from services.monitor.exports.images import keep_images
from services.monitor.exports.points import write_metrics
from services.monitor.history.batch import Batch, Progress
from services.monitor.history.files import read_report, write_report
from services.monitor.history.fold import EVENTS, FINAL, Fold
from services.monitor.history.queries import reading
from services.monitor.history.schema import using
from services.monitor.history.store import Store
from services.monitor.live import Live
from services.monitor.metrics import MonitorMetrics
from services.monitor.values.resting import Resting
from services.monitor.values.where import ALL
from shared.blobs.port import Blobs
from shared.bus.port import Bus, JournalEntry, JournalReader
from shared.jobs.record import ENDED, OVER, JobRecord, JobStore
from shared.log.purging import MONITOR
from shared.messages import Event
from shared.runtime.logging import get_logger
from shared.runtime.moments import passing

Result = TypeVar("Result")

DRAW_PAUSE = 30
"""Times as long as writing curves and metrics takes, the next writing waits: a long run's take seconds."""


@dataclass(frozen=True)
class Desk:
    """What the reading of every job needs."""

    bus: Bus
    jobs: JobStore
    runs: Path
    blobs: Blobs
    live: Live
    metrics: MonitorMetrics
    config: MonitorConfig


class JobReading:
    """The reading of one job, from its first record until it has ended and everything is in the store."""

    def __init__(self, desk: Desk, record: JobRecord, feeds: Feeds) -> None:
        self.desk, self.record, self._feeds = desk, record, feeds
        self.folder = desk.runs / record.id
        self._thread = ThreadPoolExecutor(1, f"store-{record.id}")  # the store's one thread
        self._log = get_logger(job=record.id)
        self._reported_at = self._draw_at = -math.inf
        self._resting = Resting(desk.config.rest_s)
        self._store: Store | None = None

    async def run(self) -> None:
        """Read until the job has ended and its log is in the store; raises Corrupt when the log has a gap."""
        opened = asyncio.ensure_future(self._in_thread(lambda: Store(self.folder)))
        try:
            store = self._store = await asyncio.shield(opened)
            fold = Fold(store)
            await self._in_thread(fold.reopen)
            async with self._readers(store) as readers:
                await self._read_all(fold, readers)
            await self._in_thread(fold.write_rest)
            self._feeds.end()
            await self.write_files(final=True)
            await self._keep_images()
            await self._feeds.ended(self.desk.config.feed_last_s)
            await self._remember_fed()
            await self._in_thread(lambda: _mark_final(store, self.record))
            self._log.info("the job is on file", state=self.record.state)
        finally:
            self._store = None
            await asyncio.shield(self._close(opened))

    async def _close(self, opened: "asyncio.Future[Store]") -> None:
        """Leave nothing in the folder open, and write no more to it: also a store that was still being opened."""
        try:
            await self._in_thread((await opened).close)
        finally:
            self._thread.shutdown(wait=False)

    @contextlib.asynccontextmanager
    async def _readers(self, store: Store) -> AsyncIterator["Readers"]:
        """Readers that go on where the store ends, wherever the acks of an earlier one did."""
        bus, job = self.desk.bus, self.record.id
        train, held_out, told = await self._in_thread(
            lambda: [store.sequence(name) + 1 for name in ("train", "eval", EVENTS)]
        )
        readers = Readers(
            await bus.read_journal(job, "train", start=train, durable=MONITOR),
            await bus.read_journal(job, "eval", start=held_out, durable=MONITOR),
            await bus.read_events(job, start=told, durable=MONITOR),
        )
        try:
            yield readers
        finally:
            for reader in (readers.train, readers.eval, readers.events):
                await reader.close()

    async def _read_all(self, fold: Fold, readers: "Readers") -> None:
        while True:
            ends = await _ends(self.desk.bus, self.record.id) if self.record.state in ENDED else None
            batch = await self._next_batch(fold, readers)
            if batch:
                await self.on_batch(fold, batch, readers)
            if ends is None or not readers.have_journals(ends):
                continue
            if fold.waiting:
                self._log.warning("steps name groups that are not in the journal", events=fold.waiting)
                self._tell(await self._in_thread(fold.release))
            if readers.events.position >= ends.events:
                return

    async def _next_batch(self, fold: Fold, readers: "Readers") -> Batch:
        """What has come since the last batch; events only as far as there is room for those that wait."""
        limit, wait_s = self.desk.config.batch_records, self.desk.config.read_s
        room = limit - fold.waiting
        train, held_out, events = await asyncio.gather(
            readers.train.fetch(limit, wait_s),
            readers.eval.fetch(limit, wait_s),
            readers.events.fetch(room, wait_s) if room > 0 else _nothing(),
        )
        return Batch(train, held_out, [(cast(Event, entry.message), entry.sequence) for entry in events])

    async def on_batch(self, fold: Fold, batch: Batch, readers: "Readers") -> None:
        """Commit, ack, tell."""
        progress = await self._in_thread(lambda: fold.apply(batch))
        passing("history-committed")
        if batch.train:
            await readers.train.ack(progress.train_sequence)
        if batch.eval:
            await readers.eval.ack(progress.eval_sequence)
        if progress.event_sequence:
            await readers.events.ack(progress.event_sequence)
        self._tell(progress)
        await self._report(progress)

    def _tell(self, progress: Progress) -> None:
        live, job = self.desk.live, self.record.id
        for step, values in progress.steps:
            self.desk.metrics.show(values, progress.tasks)
            live.tell(
                job,
                "step",
                {
                    "step": step.step,
                    "trained": len(step.trained),
                    "void": len(step.voided),
                    "staleness_max": max(step.staleness, default=0),
                    "finished_at": step.finished_at,
                    "rewards": {where.source: named["reward"] for where, named in values.items() if "reward" in named},
                },
            )
        self.desk.metrics.show_verifiers(progress.verifier_errors)
        for done in progress.evaluations:
            live.tell(job, "evaluation", {"version": done.version, "total": done.total, "void": done.void})
        for void in progress.voids:
            self.desk.metrics.count_void(void)
            live.tell(job, "void", {"ordinal": void.ordinal, "source": void.source, "reason": void.reason})
        if progress.groups:
            self.desk.metrics.count_groups(progress.groups)
            live.tell(job, "groups", {"groups": progress.groups})

    async def _report(self, progress: Progress) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._reported_at < self.desk.config.report_s and not progress.evaluations:
            return
        self._reported_at = now
        await self._remember_fed()
        draw = now >= self._draw_at
        await self.write_files(everything=draw)
        if draw:
            drawn_at = asyncio.get_running_loop().time()
            self._draw_at = drawn_at + max(self.desk.config.draw_s, DRAW_PAUSE * (drawn_at - now))

    async def _remember_fed(self) -> None:
        store, fed = self._store, self._feeds.fed
        if store is not None and fed:
            await self._in_thread(lambda: _remember(store, fed))

    async def note(self, values: Mapping[str, float]) -> None:
        """Points of this moment, of all sources together: queue depths and the like, as far as they have changed."""
        store = self._store
        if store is not None:
            await self._in_thread(lambda: _note(store, values, self._resting))

    async def write_files(self, everything: bool = True, *, final: bool = False) -> None:
        """`report.json`; with `everything` also `metrics.parquet` and `curves.png`; `final`: all is in the store."""
        ordinal = await self.desk.jobs.ordinal(self.record.id)
        record = self.record if final else _before_its_end(self.record)
        await self._in_thread(lambda: _write_files(self.folder, record, ordinal, everything))

    async def _keep_images(self) -> None:
        """Of a job that is over for good: its blobs go as soon as it is on file."""
        if self.record.state in OVER:
            blobs, limit = self.desk.blobs, self.desk.config.kept_image_bytes
            await self._in_thread(lambda: keep_images(self.folder, blobs, limit))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        with using(self.folder):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)


@dataclass(frozen=True)
class Readers:
    """The three parts of a job's log."""

    train: JournalReader
    eval: JournalReader
    events: JournalReader

    def have_journals(self, ends: "Ends") -> bool:
        """Whether every record of a group was read."""
        return self.train.position >= ends.train and self.eval.position >= ends.eval


@dataclass(frozen=True)
class Ends:
    """The last sequences of a job's log."""

    train: int
    eval: int
    events: int


async def _ends(bus: Bus, job: str) -> Ends:
    train, held_out, events = await asyncio.gather(
        bus.last_sequence("scored", job, "train"),
        bus.last_sequence("scored", job, "eval"),
        bus.last_sequence("events", job, "*"),
    )
    return Ends(train, held_out, events)


async def _nothing() -> Sequence[JournalEntry]:
    return []


def _before_its_end(record: JobRecord) -> JobRecord:
    """What the report says of a job that has ended while its log is still being read."""
    if record.state not in ENDED:
        return record
    return msgspec.structs.replace(record, state="stopping" if record.state == "stopped" else "running", error="")


def _write_files(folder: Path, record: JobRecord, ordinal: int, everything: bool) -> None:
    with reading(folder) as reader:
        if everything and reader is not None:
            write_metrics(folder, reader)
            draw_curves(folder, f"{record.id}: {record.state}", reader)
        # Last: who sees an end state in the report finds all numbers in it, and the other files complete.
        is_dear = not everything and reader is not None and reader.count_groups() > FEW_GROUPS
        write_report(folder, build_report(record, reader, ordinal, read_report(folder) if is_dear else None))


def _remember(store: Store, facts: Mapping[str, str]) -> None:
    with store.transaction():
        for key, value in facts.items():
            store.set_meta(key, value)


def _note(store: Store, values: Mapping[str, float], resting: Resting) -> None:
    now = time.monotonic()
    due = resting.due({**values, **store.queued_staleness()}, now)
    if due:
        with store.transaction():
            store.add_points(store.last_step(), time.time(), {ALL: due})
        resting.noted(due, now)


def _mark_final(store: Store, record: JobRecord) -> None:
    with store.transaction():
        store.set_meta(FINAL, record.state)
