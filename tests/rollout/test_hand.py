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
    """With a deadline of 0 s: what waits and what is published go on being kept, what has begun is not."""
    monkeypatch.setattr(hand, "HEARTBEAT_S", 0.0)
    waiting, begun, answered = Kept(0), Kept(1), Kept(2)
    mine = Hand(deadline_s=0.0)
    _, *batch = [mine.take(one) for one in (waiting, begun, answered)]
    mine.begin(batch)
    mine.answer(batch[1])
    keeping = asyncio.ensure_future(mine.keep_alive())

    async def some_rounds() -> bool:
        return waiting.count >= 5

    await eventually(some_rounds)
    keeping.cancel()
    await asyncio.wait({keeping})
    assert begun.count == 0
    assert answered.count == waiting.count


async def test_a_taken_prompt_has_its_whole_deadline_from_when_it_begins() -> None:
    mine = Hand(deadline_s=600.0)
    held = mine.take(Kept(0))
    assert held.deadline == math.inf
    mine.begin([held])
    assert held.deadline < math.inf


async def test_published_means_that_no_answer_is_on_its_way() -> None:
    mine = Hand(deadline_s=1.0)
    waiting, answered = mine.take(Kept(0)), mine.take(Kept(1))
    mine.answer(answered)
    until_published = asyncio.ensure_future(mine.all_published())
    mine.release(waiting)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not until_published.done()
    mine.release(answered)
    async with asyncio.timeout(5.0):
        await until_published
