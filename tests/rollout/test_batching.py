"""A blocking engine as a stream of groups."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from types import MappingProxyType

import numpy as np
import pytest

from services.rollout.engine import PreparedPrompt
from services.rollout.engines.batching import BatchingEngine, _Group, _Queue
from services.rollout.engines.feed import Feed
from shared.blobs.weights import WeightsAt
from shared.errors import Corrupt, Unavailable
from shared.messages import Completion, Prompt, pack_floats, pack_ints
from tests.rollout.helpers import make_prompt
from tests.rollout.test_gate import NOWHERE, manifest_of


class Blocking:
    """Yields groups in order, one for each release of `tokens`; looks at its feed all the time unless it is `deaf`."""

    patch_size = 14
    facts = MappingProxyType({"engine": "blocking"})

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.begun: list[tuple[int, int]] = []
        """(completions that were busy, groups that began beside them)"""
        self.tokens = threading.Semaphore(0)
        self.started = threading.Event()
        self.fault: Exception | None = None
        self.deaf = False

    def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt:
        return PreparedPrompt(np.array([prompt.ordinal], dtype=np.int32), [], (), prompt.sampling)

    def stream(self, feed: Feed) -> Iterator[tuple[int, list[Completion]]]:
        held: dict[int, PreparedPrompt] = {}
        count = self._take(feed, held, 0)
        self.batches.append(len(held))
        self.started.set()
        if self.fault is not None:
            raise self.fault
        while held:
            while not self.tokens.acquire(timeout=0.01):
                for number in () if self.deaf else feed.cancelled():
                    del held[number]
                if not held:
                    return
            number = min(held)
            prompt = held.pop(number)
            one = Completion(pack_ints(prompt.ids), pack_floats([0.0]), "", "stop", [(0, 1)])
            yield number, [one] * prompt.sampling.n
            count = self._take(feed, held, count)

    def _take(self, feed: Feed, held: dict[int, PreparedPrompt], count: int) -> int:
        """How many were taken with these, after `count`."""
        busy = sum(prompt.sampling.n for prompt in held.values())
        taken = feed.take(busy)
        if taken:
            held.update(enumerate(taken, count))
            self.begun.append((busy, len(taken)))
        return count + len(taken)

    def load(self, at: WeightsAt) -> None:
        self.batches.append(-at.version)


@pytest.fixture
async def blocking() -> AsyncIterator[Blocking]:
    engine = Blocking()
    yield engine
    engine.tokens.release(100)


async def open_with(blocking: Blocking, room: int = 100, grace_s: float = 5.0) -> BatchingEngine:
    return BatchingEngine(blocking, room, grace_s)


async def generate(engine: BatchingEngine, ordinal: int) -> list[Completion]:
    prepared = await engine.prepare(make_prompt(ordinal=ordinal, n=2), [])
    return await engine.generate(prepared, key=str(ordinal))


async def started(blocking: Blocking) -> None:
    assert await asyncio.to_thread(blocking.started.wait, 5.0)


async def test_a_group_that_waits_begins_as_soon_as_there_is_room_beside_the_others(blocking: Blocking) -> None:
    """Room for six completions, five groups of two: three at once, the fourth when the first has ended, and so on."""
    engine = await open_with(blocking, room=6)
    prepared = [await engine.prepare(make_prompt(ordinal=ordinal, n=2), []) for ordinal in range(5)]
    waiting = [asyncio.create_task(engine.generate(one, key=str(index))) for index, one in enumerate(prepared)]
    await started(blocking)
    blocking.tokens.release(5)
    groups = await asyncio.gather(*waiting)
    assert [group[0].token_ids for group in groups] == [pack_ints([ordinal]) for ordinal in range(5)]
    assert blocking.begun == [(0, 3), (4, 1), (4, 1)]
    await engine.aclose()


async def test_groups_that_wait_are_ready_as_far_as_there_is_room(blocking: Blocking) -> None:
    """Room for six completions, four groups of two."""
    queue = _Queue(room=6)
    for ordinal in range(4):
        queue.put(_Group(blocking.prepare(make_prompt(ordinal=ordinal, n=2), [])))
    assert [queue.ready(busy) for busy in (0, 1, 4, 5)] == [6, 4, 2, 0]
    assert len(queue.take(4)) == 1
    queue.hold(1)
    assert queue.ready(0) == len(queue.take(0)) == 0, "weights wait to be loaded"
    queue.hold(-1)
    assert [len(queue.take(0)), queue.is_empty] == [3, True]


async def test_a_group_comes_back_while_the_others_of_its_batch_go_on(blocking: Blocking) -> None:
    engine = await open_with(blocking)
    groups = [asyncio.create_task(generate(engine, ordinal)) for ordinal in range(2)]
    blocking.tokens.release(1)
    async with asyncio.timeout(5.0):
        done, pending = await asyncio.wait(groups, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == len(pending) == 1
    blocking.tokens.release(1)
    await asyncio.gather(*groups)
    await engine.aclose()


async def test_a_cancelled_group_frees_the_engine_for_the_next(blocking: Blocking) -> None:
    engine = await open_with(blocking)
    group = asyncio.create_task(generate(engine, 0))
    await started(blocking)
    group.cancel()
    with pytest.raises(asyncio.CancelledError):
        await group
    blocking.tokens.release(1)
    async with asyncio.timeout(5.0):
        assert len(await generate(engine, 1)) == 2
    await engine.aclose()


async def test_an_engine_that_does_not_let_go_of_a_cancelled_group_is_an_error(blocking: Blocking) -> None:
    blocking.deaf = True
    engine = await open_with(blocking, grace_s=0.05)
    group = asyncio.create_task(generate(engine, 0))
    await started(blocking)
    group.cancel()
    with pytest.raises(Unavailable, match="did not let go"):
        await group
    blocking.tokens.release(1)
    await engine.aclose()


async def test_an_engines_error_is_every_groups_of_its_batch(blocking: Blocking) -> None:
    engine = await open_with(blocking)
    blocking.fault = Corrupt("the weights are damaged")
    found = await asyncio.gather(*(generate(engine, ordinal) for ordinal in range(2)), return_exceptions=True)
    assert [str(error) for error in found] == ["the weights are damaged"] * 2
    await engine.aclose()


async def test_a_fault_of_the_engine_is_every_groups(blocking: Blocking) -> None:
    engine = await open_with(blocking)
    blocking.fault = ZeroDivisionError("ours")
    found = await asyncio.gather(*(generate(engine, ordinal) for ordinal in range(2)), return_exceptions=True)
    assert [str(error) for error in found] == ["ours"] * 2
    await engine.aclose()


async def test_weights_are_loaded_between_groups_and_none_begins_before_them(blocking: Blocking) -> None:
    engine = await open_with(blocking, room=2)
    first = asyncio.create_task(generate(engine, 0))
    await started(blocking)
    load = asyncio.create_task(engine.load(WeightsAt(NOWHERE, manifest_of(3), ())))
    await asyncio.sleep(0)
    second = asyncio.create_task(generate(engine, 1))
    blocking.tokens.release(2)
    loaded = await load
    assert (await first)[0].versions == [(0, 1)]
    assert (loaded.version, loaded.kept) == (3, 0)
    await second
    assert [batch for batch in blocking.batches if batch] == [1, -3, 1]
    await engine.aclose()
