"""Which groups make the next step: a fold over the log, without I/O.

Consumption is in ordinal order (`services.learner.steps.by_arrival` has the other one). The record with the lowest
journal sequence wins for each ordinal; the others are counted. A void group, and one that the learner passes over
(uniform, not usable), is replaced by the next ordinal. What dynamic sampling passes over follows from the groups in
their order alone, never from when they arrived; and a step that was told before is made of what it was told to be made
of.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from services.learner.checkpoints.progress import Progress
from shared.errors import Corrupt
from shared.messages import StepDone

Group = TypeVar("Group")


@dataclass(frozen=True)
class Lost:
    """Why an ordinal is not trained on. `is_ours`: the learner's own word, which the journal does not have yet."""

    reason: str
    detail: str = ""
    source: str = ""
    task: str = ""
    is_ours: bool = False


@dataclass(frozen=True)
class Step(Generic[Group]):
    """What one training step consumes: B trainable groups (fewer at the end of the order), and lost ones."""

    groups: dict[int, Group]
    lost: dict[int, Lost]

    @property
    def ordinals(self) -> list[int]:
        return sorted([*self.groups, *self.lost])


@dataclass
class Assembler(Generic[Group]):
    """Groups at or past the cursor that have arrived, and what of them makes the next step.

    `Group` is whatever the learner trains on. `filter_cap`: so many uniform groups a step passes over at most. `end` is
    the order's length once it is known. `script`: steps that were told before, by number.
    """

    progress: Progress
    prompts_per_step: int
    filter_cap: int = 0
    end: int | None = None
    script: Mapping[int, StepDone] = field(default_factory=dict)
    _ready: dict[int, Group] = field(default_factory=dict)
    _uniform: dict[int, Lost] = field(default_factory=dict)  # of the ready ones
    _lost: dict[int, Lost] = field(default_factory=dict)
    _sequences: dict[int, int] = field(default_factory=dict)
    _read_up_to: int = 0

    @property
    def cursor(self) -> int:
        return self.progress.cursor

    def resume(self) -> None:
        """Continue from the progress: everything below its cursor is consumed, the journal is read from its offset."""
        self._read_up_to = self.progress.offset - 1

    def admit(self, end: int, due: int) -> None:
        """The window ends at `end` now; what it admits first keeps its bound up to the step on weights `due`.

        In ordinal order every group keeps its bound by itself (`shared.staleness`).
        """

    def is_new(self, ordinal: int, sequence: int) -> bool:
        """Whether the record at `sequence` is the first of its ordinal.

        The record of an ordinal that was consumed is a duplicate, or is read again in a replay.
        """
        self._read_up_to = max(self._read_up_to, sequence)
        if self.is_consumed(ordinal) or ordinal in self._sequences:
            return False
        self._sequences[ordinal] = sequence
        return True

    def add(self, ordinal: int, group: Group, *, uniform: Lost | None = None) -> None:
        """A group to train on; `uniform`: dynamic sampling would rather pass it over."""
        self._ready[ordinal] = group
        if uniform is not None and self.filter_cap:
            self._uniform[ordinal] = uniform

    def lose(self, ordinal: int, why: Lost) -> None:
        """A group that will not be trained on; the next one takes its place."""
        self._lost[ordinal] = why

    def is_consumed(self, ordinal: int) -> bool:
        """Whether a step has trained on it, or given it up."""
        return ordinal < self.cursor or ordinal in self.progress.ahead

    def lost(self, end: int | None = None) -> int:
        """Ordinals at or past the cursor (and below `end`) that no step will train on any more: they widen the window.

        A uniform one is known to be once fewer than `filter_cap` before it are uniform or have not arrived.
        """
        known, before = self._lost_below(end), 0
        last = max(self._uniform, default=-1)
        for ordinal in range(self.cursor, last + 1):
            if ordinal in self._uniform:
                known += before < self.filter_cap
                before += 1
            elif ordinal not in self._ready and ordinal not in self._lost:
                before += 1
        return known

    def _lost_below(self, end: int | None) -> int:
        return len(self._lost) if end is None else sum(ordinal < end for ordinal in self._lost)

    @property
    def held(self) -> int:
        """Groups that have arrived and wait for their step."""
        return len(self._ready)

    @property
    def exhausted(self) -> bool:
        """Every ordinal of the order is consumed."""
        return self.end is not None and self.cursor >= self.end

    @property
    def is_told(self) -> bool:
        """Whether the next step was told before."""
        return self.progress.step + 1 in self.script

    def next_step(self) -> Step[Group] | None:
        """The next step when all its groups have arrived, else None. At the order's end it may be short or empty.

        Raises Corrupt when a group that it was told to be made of is lost, or when what was told contradicts itself.
        """
        told = self.script.get(self.progress.step + 1)
        return self._assemble() if told is None else self._as_told(told)

    def _assemble(self) -> Step[Group] | None:
        groups: dict[int, Group] = {}
        lost: dict[int, Lost] = {}
        filtered, ordinal = 0, self.cursor
        while len(groups) < self.prompts_per_step and ordinal != self.end:
            if ordinal in self._lost:
                lost[ordinal] = self._lost[ordinal]
            elif ordinal not in self._ready:
                return None
            elif ordinal in self._uniform and filtered < self.filter_cap:
                lost[ordinal] = self._uniform[ordinal]
                filtered += 1
            else:
                groups[ordinal] = self._ready[ordinal]
            ordinal += 1
        return Step(groups, lost) if ordinal > self.cursor else None

    def _as_told(self, told: StepDone) -> Step[Group] | None:
        begun = Counter(ordinal for portion in told.portions for ordinal in portion.ordinals)
        if wrong := sorted(begun - Counter(told.trained)):
            raise Corrupt(f"step {told.step} tells portions with groups {wrong}, expected each once and trained on")
        for ordinal in told.trained:
            if ordinal in self._lost:
                raise Corrupt(
                    f"step {told.step} was trained on group {ordinal}, which cannot be used any more: "
                    f"{self._lost[ordinal].detail}"
                )
            if ordinal not in self._ready:
                return None
        nothing = Lost("unknown")
        lost = {ordinal: self._lost.get(ordinal) or self._uniform.get(ordinal) or nothing for ordinal in told.voided}
        groups = {ordinal: self._ready[ordinal] for ordinal in told.trained}
        return Step(groups, lost)

    def certain(self) -> dict[int, Group]:
        """The groups that have arrived and that the next step takes, whatever else arrives.

        The order's end is told behind the last group that is below it.
        """
        found: dict[int, Group] = {}
        places, ordinal = self.prompts_per_step, self.cursor
        while places and ordinal != self.end:
            if ordinal in self._ready and ordinal not in self._uniform:
                found[ordinal] = self._ready[ordinal]
            places -= ordinal not in self._lost
            ordinal += 1
        return found

    def consume(self, step: Step[Group]) -> None:
        """Forget the groups of `step` and move the cursor to the first ordinal that is not consumed."""
        for ordinal in step.ordinals:
            self._ready.pop(ordinal, None)
            self._uniform.pop(ordinal, None)
            self._lost.pop(ordinal, None)
            self._sequences.pop(ordinal, None)
        self.progress.cursor, self.progress.ahead = self.place_after(step)

    def place_after(self, step: Step[Group]) -> tuple[int, frozenset[int]]:
        """The first ordinal that is not consumed once `step` is, and those above it that are."""
        cursor, ahead = self.cursor, {*self.progress.ahead, *step.ordinals}
        while cursor in ahead:
            ahead.remove(cursor)
            cursor += 1
        return cursor, frozenset(ahead)

    def open(self, end: int) -> dict[int, Lost | None]:
        """Ordinals below `end` that are not consumed and that no record gives up; with our own reason, if any."""
        left = (ordinal for ordinal in range(self.cursor, end) if not self.is_consumed(ordinal))
        known = {ordinal: self._lost.get(ordinal) for ordinal in left}
        return {ordinal: why for ordinal, why in known.items() if why is None or why.is_ours}

    def row_of_lost(self, length: int) -> dict[int, Lost]:
        """The first so many lost ordinals in a row, with no group to train on between them; empty: none is there.

        Uniform groups do not count: dynamic sampling has its own cap.
        """
        row: dict[int, Lost] = {}
        for ordinal in count(self.cursor):
            if ordinal in self._lost:
                row[ordinal] = self._lost[ordinal]
                if len(row) >= length:
                    return row
            elif ordinal in self._ready or self.is_consumed(ordinal):
                if ordinal not in self._uniform:
                    row.clear()
            else:
                return {}
        raise AssertionError("ordinals have no end")

    def offset(self) -> int:
        """The journal sequence of the first record that a replay from here needs."""
        return min(self._sequences.values(), default=self._read_up_to + 1)
