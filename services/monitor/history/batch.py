"""What is read of a job's streams between two commits of its store, and what that brings."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.monitor.values.where import Where
from shared.bus.port import JournalEntry
from shared.messages import EvalDone, Event, StepDone, Voided


@dataclass
class Batch:
    """What was read since the last commit, each in the order of its stream."""

    train: Sequence[JournalEntry] = ()
    eval: Sequence[JournalEntry] = ()
    events: Sequence[tuple[Event, int]] = ()

    def __bool__(self) -> bool:
        return bool(self.train or self.eval or self.events)


@dataclass
class Progress:
    """What a batch brought: for the acks, the gauges and the live stream of the page."""

    train_sequence: int = 0
    eval_sequence: int = 0
    event_sequence: int = 0
    steps: list[tuple[StepDone, dict[Where, dict[str, float]]]] = field(default_factory=list)
    evaluations: list[EvalDone] = field(default_factory=list)
    tasks: dict[str, str] = field(default_factory=dict)
    verifier_errors: dict[str, float] = field(default_factory=dict)
    voids: list[Voided] = field(default_factory=list)
    groups: int = 0
