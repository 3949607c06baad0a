"""Which groups make the next step: a fold over the journal, without I/O.

Consumption is in ordinal order. The record with the lowest journal sequence wins for each ordinal; the others are
counted. A void group, and one that is put aside (filtered, not usable), is replaced by the next ordinal.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

Group = TypeVar("Group")


@dataclass(frozen=True)
class Step(Generic[Group]):
    """What one training step consumes: B trainable groups (fewer at the end of the order) and the lost between them."""

    groups: dict[int, Group]
    lost: dict[int, str]  # ordinal -> reason
    cursor: int  # the first ordinal past the step


@dataclass
class Assembler(Generic[Group]):
    """Groups at or past the cursor that have arrived, and what of them makes the next step.

    `Group` is whatever the learner trains on. `end` is the order's length once it is known.
    """

    prompts_per_step: int
    cursor: int = 0
    end: int | None = None
    duplicates: int = 0
    _ready: dict[int, Group] = field(default_factory=dict)
    _lost: dict[int, str] = field(default_factory=dict)
    _sequences: dict[int, int] = field(default_factory=dict)
    _read_up_to: int = 0

    def restart(self, cursor: int, offset: int) -> None:
        """Continue from a checkpoint: everything below `cursor` is consumed, the journal is read from `offset` on."""
        self.cursor, self._read_up_to = cursor, offset - 1

    def is_new(self, ordinal: int, sequence: int) -> bool:
        """Whether the record at `sequence` is the first of its ordinal; a later one is counted as a duplicate.

        An ordinal below the cursor was consumed: its record is a duplicate, or is read again in a replay.
        """
        self._read_up_to = max(self._read_up_to, sequence)
        if ordinal < self.cursor:
            return False
        if ordinal in self._sequences:
            self.duplicates += 1
            return False
        self._sequences[ordinal] = sequence
        return True

    def add(self, ordinal: int, group: Group) -> None:
        """A group to train on."""
        self._ready[ordinal] = group

    def lose(self, ordinal: int, reason: str) -> None:
        """A group that will not be trained on; the next one takes its place."""
        self._ready.pop(ordinal, None)
        self._lost[ordinal] = reason

    @property
    def lost(self) -> int:
        """Ordinals at or past the cursor that are known to be lost: they widen the window."""
        return len(self._lost)

    @property
    def held(self) -> int:
        """Groups that have arrived and wait for their step."""
        return len(self._ready)

    @property
    def exhausted(self) -> bool:
        """Every ordinal of the order is consumed."""
        return self.end is not None and self.cursor >= self.end

    def next_step(self) -> Step[Group] | None:
        """The next step when all its groups have arrived, else None. At the order's end it may be short or empty."""
        groups: dict[int, Group] = {}
        lost: dict[int, str] = {}
        ordinal = self.cursor
        while len(groups) < self.prompts_per_step and ordinal != self.end:
            if ordinal in self._ready:
                groups[ordinal] = self._ready[ordinal]
            elif ordinal in self._lost:
                lost[ordinal] = self._lost[ordinal]
            else:
                return None
            ordinal += 1
        return Step(groups, lost, ordinal) if ordinal > self.cursor else None

    def consume(self, step: Step[Group]) -> None:
        """Move the cursor past `step` and forget its groups."""
        for ordinal in range(self.cursor, step.cursor):
            self._ready.pop(ordinal, None)
            self._lost.pop(ordinal, None)
            self._sequences.pop(ordinal, None)
        self.cursor = step.cursor

    def open(self, end: int) -> list[int]:
        """Ordinals below `end` that are not consumed and not lost: at a stop they become void."""
        return [ordinal for ordinal in range(self.cursor, end) if ordinal not in self._lost]

    def offset(self) -> int:
        """The journal sequence of the first record that a replay from here needs."""
        return min(self._sequences.values(), default=self._read_up_to + 1)
