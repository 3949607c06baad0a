"""What is kept alive, and until when."""

import asyncio
import math

import pytest

from services.rollout import hand
from services.rollout.hand import Hand
from shared.messages import Prompt
from tests.fakes import eventually
from tests.rollout.helpers import make_prompt


class Kept:
    """A delivery that counts how often it is kept alive."""

    def __init__(self, ordinal: int) -> None:
        self.message: Prompt = make_prompt(ordinal=ordinal)
        self.count = 0

    async def keep(self) -> None:
        self.count += 1


async def test_only_what_is_being_generated_runs_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a deadline of 0 s: what waits and what is published go on being kept, what is being generated is not."""
    monkeypatch.setattr(hand, "HEARTBEAT_S", 0.0)
    waiting, begun, answered = Kept(0), Kept(1), Kept(2)
    mine = Hand()
    _, *others = [mine.take(one) for one in (waiting, begun, answered)]
    for held in others:
        held.begin(0.0)
    others[1].end()
    keeping = asyncio.ensure_future(mine.keep_alive())

    async def some_rounds() -> bool:
        return waiting.count >= 5

    await eventually(some_rounds)
    keeping.cancel()
    await asyncio.wait({keeping})
    assert begun.count == 0
    assert answered.count == waiting.count


async def test_a_taken_prompt_has_its_whole_deadline_from_when_it_begins() -> None:
    held = Hand().take(Kept(0))
    assert held.deadline == math.inf
    held.begin(600.0)
    assert held.deadline < math.inf
