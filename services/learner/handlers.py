"""What the learner does with each message it reads: groups, voids, ends of orders, evaluations."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from opentelemetry.trace import Link

from services.learner.attention.batch import Ready
from services.learner.engine import Ingest
from services.learner.intake.arrival import check_group
from services.learner.publishing.evaluations import Evaluations
from services.learner.steps.assembler import Assembler, Lost, Step
from shared.blobs.port import Blobs
from shared.bus.port import Bus, JournalEntry
from shared.errors import BadSample, BlobMissing
from shared.messages import EndOfOrder, EvalDone, EvalDue, Event, Scored, Voided, message_id
from shared.runtime.retry import BLOB_STORE, Retry
from shared.runtime.telemetry import group_span

Result = TypeVar("Result")

OVERRIDE_ATTEMPT = 1_000
"""Attempt in the message ids of the learner's own voids, apart from those of the groups they override."""
HELD_STEPS = 16
"""Groups of so many steps are held in memory at most, while there is a step to make of them."""
PORTION = 8
"""Records that are taken together at most: beside a step they are all in memory."""
ROOM_S = 5.0
"""How long the reader waits for a step to be consumed before it looks again."""
FILTER_CAP = 3
"""Dynamic sampling passes over at most so many steps' groups before it takes uniform ones."""
_DATA_ERRORS = (ValueError, TypeError, KeyError, IndexError, OverflowError, ArithmeticError)
"""What preparing raises for numbers that nobody foresaw: of this group, not of the learner."""


@dataclass
class Intake:
    """What has arrived for one job, and a bell that rings when there is more."""

    job: str
    bus: Bus
    blobs: Blobs
    ingest: Ingest
    assembler: Assembler[Ready]
    retry: Retry
    evaluations: Evaluations = field(default_factory=Evaluations)
    end_of_order: EndOfOrder | None = None
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    consumed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a step has consumed its groups."""
    last_evaluation_entry: int = 0
    links: dict[int, Link] = field(default_factory=dict)
    """By ordinal, what the step that consumes a group links its span to."""
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ingest"))

    async def on_entries(self, entries: Sequence[JournalEntry]) -> None:
        """Records of the training journal, taken in order; what prepares their groups waits for nothing in between."""
        async with asyncio.TaskGroup() as tasks:
            coming = [tasks.create_task(self._found(entry)) for entry in entries if self._is_new(entry)]
            for one in coming:
                self._take(*await one)
                self.bell.set()

    def _is_new(self, entry: JournalEntry) -> bool:
        record = entry.message
        if not isinstance(record, Scored | Voided) or is_override(record):
            return False
        return self.assembler.is_new(record_ordinal(record), entry.sequence)

    async def _found(self, entry: JournalEntry) -> tuple[int, Ready | Lost]:
        """The record's ordinal, and its group ready for a step, or why it is lost."""
        record = entry.message
        if isinstance(record, Voided):
            return record.ordinal, Lost(record.reason, record.detail, record.source, record.task)
        assert isinstance(record, Scored)
        with group_span("learner.ingest", record.prompt, entry.trace) as span:
            self.links[record.prompt.ordinal] = Link(span.get_span_context())
            return record.prompt.ordinal, await self._prepared(record)

    async def _prepared(self, scored: Scored) -> Ready | Lost:
        """The group made ready beside a step that may be running; given up where it cannot be trained on."""
        ours = _ours(scored)
        try:
            check_group(scored)
            work = partial(self._in_thread, partial(self._ready, scored))
            ready = await self.retry.until_back(BLOB_STORE, work)
        except (BadSample, BlobMissing) as error:
            return ours("bad-sample", str(error))
        except _DATA_ERRORS as error:
            return ours("bad-sample", f"the group cannot be prepared: {type(error).__name__}: {error}")
        if ready.num_valid == 0:
            return ours("unverifiable", "no completion of the group has a verdict")
        return ready

    def _take(self, ordinal: int, found: Ready | Lost) -> None:
        if self.assembler.is_consumed(ordinal):  # a step that was told before has given it up meanwhile
            self.links.pop(ordinal, None)
            return
        if isinstance(found, Lost):
            self.assembler.lose(ordinal, found)
            return
        uniform = _ours(found.scored)("filtered", "all answers of the group are equally right")
        self.assembler.add(ordinal, found, uniform=uniform if found.droppable else None)

    def _ready(self, scored: Scored) -> Ready:
        return self.ingest.ready(scored, [self.blobs.get(image.blob) for image in scored.prompt.images])

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def give_up(self, lost: Mapping[int, Lost]) -> None:
        """Write the learner's own words of `lost` into the journal."""
        await asyncio.gather(*(self._publish_void(ordinal, why) for ordinal, why in lost.items() if why.is_ours))

    async def _publish_void(self, ordinal: int, why: Lost) -> None:
        void = Voided(
            job=self.job,
            kind="train",
            ordinal=ordinal,
            source=why.source,
            task=why.task,
            reason=why.reason,
            detail=why.detail,
            stage="learner",
        )
        await self.bus.publish(
            "scored", self.job, "train", void, message_id(self.job, "train", None, ordinal, OVERRIDE_ATTEMPT)
        )

    async def on_evaluation_entry(self, entry: JournalEntry) -> None:
        """A record of the evaluation journal."""
        match entry.message:
            case Scored(group=group):
                assert group.prompt.version is not None
                self.evaluations.arrive(group.prompt.version, group.prompt.ordinal, void=False)
            case Voided(version=int(version), ordinal=ordinal):
                self.evaluations.arrive(version, ordinal, void=True)

    async def on_event(self, event: Event) -> None:
        """What others, and an earlier learner, have announced."""
        match event:
            case EndOfOrder(kind="train", total=total):
                self.end_of_order = event
                self.assembler.end = total
            case EndOfOrder(kind="eval", version=int(version), total=total):
                self.evaluations.end(version, total)
            case EvalDue(version=version, incarnation=incarnation):
                self.evaluations.announce(version, incarnation)
            case EvalDone(version=version):
                self.evaluations.finish(version)

    async def room(self) -> None:
        """Return once few enough groups are held: a replay reads much faster than it trains."""
        while self.assembler.held >= HELD_STEPS * self.assembler.prompts_per_step and self.assembler.next_step():
            self.consumed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROOM_S):
                    await self.consumed.wait()

    async def news(self, limit_s: float) -> None:
        """Return when something has arrived or changed (the bell rings), or after `limit_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self.bell.wait()

    def consume(self, step: Step[Ready]) -> None:
        """The step's groups are trained on, or lost."""
        self.assembler.consume(step)
        self.consumed.set()

    def take_links(self, ordinals: Iterable[int]) -> list[Link]:
        """Links to the ingest spans of these groups, each given once."""
        return [self.links.pop(ordinal) for ordinal in ordinals if ordinal in self.links]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _ours(scored: Scored) -> Callable[[str, str], Lost]:
    """The learner's own word of a group: a reason and its detail."""
    return partial(Lost, source=scored.prompt.source, task=scored.prompt.task, is_ours=True)


def is_override(record: object) -> bool:
    """Whether it is the learner's own word on a group, after the group's own record."""
    return isinstance(record, Voided) and record.stage == "learner"


def record_ordinal(record: Scored | Voided) -> int:
    return record.prompt.ordinal if isinstance(record, Scored) else record.ordinal


async def read_evaluations(intake: Intake, max_records: int, after_fetch: Callable[[], Awaitable[None]]) -> None:
    """Read the evaluation journal for ever; what belongs to finished evaluations need not be read again."""
    reader = await intake.bus.read_journal(intake.job, "eval", durable="learner")
    try:
        while True:
            entries = await reader.fetch(max_records, 1.0)
            for entry in entries:
                await intake.on_evaluation_entry(entry)
            await after_fetch()
            if entries:
                intake.last_evaluation_entry = entries[-1].sequence
            if intake.last_evaluation_entry and not intake.evaluations.open:
                await reader.ack(intake.last_evaluation_entry)
                intake.last_evaluation_entry = 0
    finally:
        await reader.close()


async def read_training(
    intake: Intake, start: int, max_records: int, after_fetch: Callable[[], Awaitable[None]]
) -> None:
    """Read the training journal from sequence `start` for ever; `after_fetch` runs once a batch is handled."""
    reader = await intake.bus.read_journal(intake.job, "train", start=start)
    try:
        while True:
            entries = await reader.fetch(max_records, 1.0)
            for begin in range(0, len(entries), PORTION):
                await intake.room()
                await intake.on_entries(entries[begin : begin + PORTION])
            await after_fetch()
    finally:
        await reader.close()
