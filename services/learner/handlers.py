"""What the learner does with each message it reads: groups, voids, ends of orders, evaluations."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from opentelemetry.trace import Link

from services.learner.assembler import Assembler, Step
from services.learner.attention.batch import Ready
from services.learner.engine import Ingest
from services.learner.evaluations import Evaluations
from shared.blobs.port import Blobs
from shared.bus.port import Bus, JournalEntry
from shared.errors import BadSample, BlobMissing
from shared.messages import EndOfOrder, EvalDone, EvalDue, Event, Scored, Voided, message_id
from shared.runtime.telemetry import group_span

OVERRIDE_ATTEMPT = 1_000
"""Attempt in the message ids of the learner's own voids, apart from those of the groups they override."""
HELD_STEPS = 16
"""Groups of so many steps are held in memory at most, while there is a step to make of them."""
ROOM_S = 5.0
"""How long the reader waits for a step to be consumed before it looks again."""
FILTER_CAP = 3
"""Dynamic sampling puts at most so many steps' groups aside before it takes uniform ones."""


@dataclass
class Intake:
    """What has arrived for one job, and a bell that rings when there is more."""

    job: str
    bus: Bus
    blobs: Blobs
    ingest: Ingest
    assembler: Assembler[Ready]
    drop_uniform_groups: bool
    evaluations: Evaluations = field(default_factory=Evaluations)
    end_of_order: EndOfOrder | None = None
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    consumed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a step has consumed its groups."""
    last_evaluation_entry: int = 0
    decided: dict[int, str] = field(default_factory=dict)
    """Ordinals that an earlier learner has put aside, with the reason."""
    decided_below: int = 0
    links: dict[int, Link] = field(default_factory=dict)
    """By ordinal, what the step that consumes a group links its span to."""
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ingest"))

    async def recall(self, start: int, cursor: int, last_sequence: int, max_records: int) -> None:
        """Read what an earlier learner has put aside, from sequence `start` on; `cursor` is its last announced one.

        Whether dynamic sampling filters a group depends on when it arrived; below `cursor` it is decided already.
        """
        self.decided_below = cursor
        reader = await self.bus.read_journal(self.job, "train", start=start)
        try:
            while entries := await reader.fetch(max_records, 0.5):
                voids = (entry.message for entry in entries if is_override(entry.message))
                self.decided.update({void.ordinal: void.reason for void in voids if isinstance(void, Voided)})
                if entries[-1].sequence >= last_sequence:
                    return
        finally:
            await reader.close()

    async def on_entry(self, entry: JournalEntry) -> None:
        """A record of the training journal, in order."""
        record = entry.message
        if not isinstance(record, Scored | Voided) or is_override(record):
            return
        ordinal = record_ordinal(record)
        if not self.assembler.is_new(ordinal, entry.sequence):
            return
        if isinstance(record, Voided):
            self.assembler.lose(ordinal, record.reason)
        elif ordinal in self.decided:
            self.assembler.lose(ordinal, self.decided.pop(ordinal))
        else:
            with group_span("learner.ingest", record.prompt, entry.trace) as span:
                self.links[record.prompt.ordinal] = Link(span.get_span_context())
                await self.on_scored(record)

    async def on_scored(self, scored: Scored) -> None:
        """Prepare the group for its step, beside a step that may be running; put aside what can't be trained on."""
        try:
            ready = await asyncio.get_running_loop().run_in_executor(self._threads, self._prepare, scored)
        except (BadSample, BlobMissing) as error:
            await self._put_aside(scored, "bad-sample", str(error))
            return
        if ready.num_valid == 0:
            await self._put_aside(scored, "unverifiable", "no completion of the group has a verdict")
        elif ready.droppable and self._filters and scored.prompt.ordinal >= self.decided_below:
            await self._put_aside(scored, "filtered", "all answers of the group are equally right")
        else:
            self.assembler.add(scored.prompt.ordinal, ready)

    def _prepare(self, scored: Scored) -> Ready:
        return self.ingest.ready(scored, [self.blobs.get(image.blob) for image in scored.prompt.images])

    @property
    def _filters(self) -> bool:
        return self.drop_uniform_groups and self.assembler.lost < FILTER_CAP * self.assembler.prompts_per_step

    async def _put_aside(self, scored: Scored, reason: str, detail: str) -> None:
        """Say it in the journal first: a replay reads the decision there, it does not make it again."""
        prompt = scored.prompt
        await self.publish_void(prompt.ordinal, reason, detail, source=prompt.source, task=prompt.task)
        self.assembler.lose(prompt.ordinal, reason)

    async def publish_void(self, ordinal: int, reason: str, detail: str, *, source: str, task: str) -> None:
        """Write the learner's own word on an ordinal into the journal."""
        void = Voided(
            job=self.job,
            kind="train",
            ordinal=ordinal,
            source=source,
            task=task,
            reason=reason,
            detail=detail,
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
            case EvalDue(version=version):
                self.evaluations.announce(version)
            case EvalDone(version=version):
                self.evaluations.finish(version)

    async def room(self) -> None:
        """Return once few enough groups are held: a replay reads much faster than it trains."""
        while self.assembler.held >= HELD_STEPS * self.assembler.prompts_per_step and self.assembler.next_step():
            self.consumed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROOM_S):
                    await self.consumed.wait()

    def consume(self, step: Step[Ready]) -> None:
        """The step's groups are trained on, or lost."""
        self.assembler.consume(step)
        self.consumed.set()

    def take_links(self, cursor: int) -> list[Link]:
        """Links to the ingest spans of groups below `cursor`, each given once."""
        return [self.links.pop(ordinal) for ordinal in sorted(self.links) if ordinal < cursor]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


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
            for entry in await reader.fetch(max_records, 1.0):
                await intake.room()
                await intake.on_entry(entry)
                intake.bell.set()
            await after_fetch()
    finally:
        await reader.close()
