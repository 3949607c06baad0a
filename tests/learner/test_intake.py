"""Records of the journal that are taken together: in their order, and none for a step that is behind us."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from services.learner import handlers
from services.learner.attention.batch import Ready
from services.learner.checkpoints.progress import Progress
from services.learner.engine import Ingest
from services.learner.handlers import Intake
from services.learner.steps.assembler import Assembler, Lost, Step
from services.learner.steps.by_arrival import ByArrival
from shared.bus.memory.bus import MemoryBus
from shared.bus.port import JournalEntry
from shared.errors import BadSample, BlobMissing
from shared.messages import Scored
from shared.runtime.retry import Retry
from tests.fakes import AwayBlobs, eventually, make_scored


@dataclass
class Made:
    """A group that is ready, as far as the intake looks at it."""

    scored: Scored
    num_valid: int = 1
    droppable: bool = False


@dataclass
class Prepares:
    """An ingest that makes a group ready once `until` returns."""

    until: Callable[[int], object]

    def ready(self, group: Scored, image_bytes: Sequence[bytes]) -> Ready:
        self.until(group.prompt.ordinal)
        return cast(Ready, Made(group))


@pytest.fixture(autouse=True)
def any_group_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "check_group", lambda scored: None)


def intake(assembler: Assembler[Any], until: Callable[[int], object], missing_s: float = 5.0) -> Intake:
    retry = Retry(longest_pause_s=0.01, missing_s=missing_s)
    return Intake("j", MemoryBus(), AwayBlobs(), cast(Ingest, Prepares(until)), assembler, retry)


def entries(*ordinals: int) -> list[JournalEntry]:
    return [JournalEntry(sequence, make_scored(n, job="j"), {}, b"") for sequence, n in enumerate(ordinals, 1)]


async def test_what_comes_together_is_taken_in_the_order_of_the_journal() -> None:
    def until(ordinal: int) -> None:
        if ordinal == 4:
            raise BadSample("no image")

    taken: ByArrival[Any] = ByArrival(Progress(), 2)
    await intake(taken, until).on_entries(entries(5, 3, 4, 3, 0))
    assert list(taken._ready) == [5, 3, 0]
    assert taken._lost[4].detail == "no image"
    assert taken.offset() == 1


@pytest.mark.parametrize("kind", [Assembler, ByArrival])
async def test_a_group_that_a_told_step_gave_up_while_it_was_prepared_is_not_taken(kind: type[Assembler[Any]]) -> None:
    gate, taken = threading.Event(), kind(Progress(), 2)
    one = intake(taken, lambda ordinal: ordinal != 2 or gate.wait(20.0))
    taking = asyncio.create_task(one.on_entries(entries(0, 1, 2)))

    async def two_are_there() -> bool:
        return taken.held == 2

    await eventually(two_are_there)
    one.consume(Step({n: taken._ready[n] for n in (0, 1)}, {2: Lost("unknown")}))
    gate.set()
    await taking
    assert (taken.cursor, taken.held, taken.lost()) == (3, 0, 0)
    await one.on_entries(entries(3, 4))
    step = taken.next_step()
    assert step is not None and step.ordinals == [3, 4]


async def test_a_group_whose_image_comes_late_has_its_time_whatever_came_before_it() -> None:
    """Eight groups of 0.1 s each: the last one's image is there at the second look, 0.7 s after all have begun."""
    looks, pause = [0], threading.Event()

    def until(ordinal: int) -> None:
        if ordinal < 7:
            pause.wait(0.1)
            return
        looks[0] += 1
        if looks[0] == 1:
            raise BlobMissing("not yet")

    taken: Assembler[Any] = Assembler(Progress(), 8)
    await intake(taken, until, missing_s=0.5).on_entries(entries(*range(8)))
    assert taken.held == 8
