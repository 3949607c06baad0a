"""A blocking engine as a stream of groups."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import MappingProxyType

import numpy as np
import pytest

from services.rollout.engine import PreparedPrompt
from services.rollout.engines.batching import BatchingEngine
from shared.blobs.weights import WeightsAt
from shared.errors import Corrupt, TriuneError, Unavailable
from shared.messages import Completion, Prompt, pack_floats, pack_ints
from tests.rollout.helpers import make_prompt
from tests.rollout.test_gate import NOWHERE, manifest_of


class Blocking:
    """Yields groups in order, one for each release of `tokens`; asks `stop` all the time unless it is `deaf`."""

    patch_size = 14
    facts = MappingProxyType({"engine": "blocking"})

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.tokens = threading.Semaphore(0)
        self.started = threading.Event()
        self.fault: TriuneError | None = None
        self.deaf = False

    def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt:
        return PreparedPrompt(np.array([prompt.ordinal], dtype=np.int32), [], (), prompt.sampling)

    def generate(
        self, prompts: Sequence[PreparedPrompt], stop: Callable[[], bool]
    ) -> Iterator[tuple[int, list[Completion]]]:
        self.batches.append(len(prompts))
        self.started.set()
        if self.fault is not None:
            raise self.fault
        for index, prompt in enumerate(prompts):
            while not self.tokens.acquire(timeout=0.01):
                if not self.deaf and stop():
                    return
            ids = pack_ints(prompt.ids)
            one = Completion(ids, pack_floats([0.0]), "", "stop", [(0, 1)])
            yield index, [one] * prompt.sampling.n

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


async def test_groups_that_come_together_are_one_batch_of_what_there_is_room_for(blocking: Blocking) -> None:
    engine = await open_with(blocking, room=6)
    blocking.tokens.release(5)
    groups = await asyncio.gather(*(generate(engine, ordinal) for ordinal in range(5)))
    assert [group[0].token_ids for group in groups] == [pack_ints([ordinal]) for ordinal in range(5)]
    assert sorted(blocking.batches) == [2, 3]
    await engine.aclose()


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


async def test_weights_are_loaded_between_batches(blocking: Blocking) -> None:
    engine = await open_with(blocking)
    group = asyncio.create_task(generate(engine, 0))
    await started(blocking)
    load = asyncio.create_task(engine.load(WeightsAt(NOWHERE, manifest_of(3), ())))
    blocking.tokens.release(1)
    loaded = await load
    assert (await group)[0].versions == [(0, 1)]
    assert (loaded.version, loaded.kept) == (3, 0)
    assert blocking.batches == [1, -3]
    await engine.aclose()
