"""A blocking engine as a stream: groups that come together are one batch in a thread of its own.

Prompts are prepared in a pool beside it, so that decoding never waits for an image.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from services.rollout.engine import Facts, Loaded, Prepared, PreparedPrompt, Traits, UpdateMode
from shared.blobs.weights import WeightsAt
from shared.errors import TriuneError, Unavailable
from shared.messages import Completion, Prompt

_LINGER_S = 0.02
"""A batch that is not full waits so long for the next group: a full one costs little more than one group."""
_PREPARERS = min(4, os.cpu_count() or 1)


class BlockingEngine(Protocol):
    """One model on one device. `generate` and `load` come from one thread; `prepare` from several, beside them."""

    @property
    def facts(self) -> Facts: ...
    @property
    def patch_size(self) -> int: ...
    def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt: ...
    def generate(
        self, prompts: Sequence[PreparedPrompt], stop: Callable[[], bool]
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample all groups together; yields (index into `prompts`, its n completions) as soon as a group is whole.

        Asks `stop` at every token; ends early, with the groups that are not whole missing, once it is true.
        """
        ...

    def load(self, at: WeightsAt) -> None:
        """Copy the `changed` tensors; raises Corrupt before any is copied when one does not fit the model."""
        ...


@dataclass(eq=False)
class _Group:
    prepared: PreparedPrompt
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    is_cancelled: bool = False

    def __post_init__(self) -> None:
        self.done: asyncio.Future[list[Completion]] = self.loop.create_future()
        self.let_go = asyncio.Event()
        """The thread does not work on it any more."""


class BatchingEngine:
    """See `services.rollout.engine.Engine`; `room` completions make a batch."""

    def __init__(self, engine: BlockingEngine, room: int, grace_s: float) -> None:
        """`grace_s`: how long the thread may take to let go of a cancelled group."""
        self._engine, self._grace_s = engine, grace_s
        self.traits = Traits(room=room, in_flight_updates=False)
        self._thread = ThreadPoolExecutor(1, "engine")
        self._pool = ThreadPoolExecutor(_PREPARERS, "prepare")
        self._waiting: list[_Group] = []
        self._arrival = asyncio.Event()
        self._batches: asyncio.Task[None] | None = None

    @property
    def facts(self) -> Facts:
        return self._engine.facts

    @property
    def patch_size(self) -> int:
        return self._engine.patch_size

    async def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> Prepared:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(self._engine.prepare, prompt, images))

    async def generate(self, prepared: Prepared, *, key: str) -> list[Completion]:
        assert isinstance(prepared, PreparedPrompt), key
        group = _Group(prepared)
        self._waiting.append(group)
        self._arrival.set()
        if self._batches is None:
            self._batches = asyncio.create_task(self._run_batches())
        try:
            return await group.done
        except asyncio.CancelledError:
            await self._abort(group)
            raise

    async def _abort(self, group: _Group) -> None:
        """Return when the thread has let go of `group`; raises Unavailable when it does not."""
        group.is_cancelled = True
        if group in self._waiting:
            self._waiting.remove(group)
            return
        try:
            async with asyncio.timeout(self._grace_s):
                await group.let_go.wait()
        except TimeoutError:
            raise Unavailable(f"the engine did not let go of a group within {self._grace_s} s") from None

    async def load(self, at: WeightsAt, *, mode: UpdateMode = "drain") -> Loaded:
        assert mode == "drain"
        began = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(self._thread, partial(self._engine.load, at))
        return Loaded(at.version, time.monotonic() - began, 0)

    async def aclose(self) -> None:
        if self._batches is not None:
            self._batches.cancel()
            await asyncio.wait({self._batches})
        for pool in (self._thread, self._pool):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _run_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            try:
                await loop.run_in_executor(self._thread, partial(self._decode, batch))
            except TriuneError as error:
                for group in batch:
                    if not group.done.done():
                        group.done.set_exception(error)

    async def _next_batch(self) -> list[_Group]:
        """Groups whose completions fit together, one at least."""
        while not self._full():
            self._arrival.clear()
            try:
                async with asyncio.timeout(_LINGER_S if self._waiting else None):
                    await self._arrival.wait()
            except TimeoutError:
                break
        batch: list[_Group] = []
        rows = 0
        while self._waiting and (not batch or rows + self._waiting[0].prepared.sampling.n <= self.traits.room):
            batch.append(self._waiting.pop(0))
            rows += batch[-1].prepared.sampling.n
        return batch

    def _full(self) -> bool:
        return sum(group.prepared.sampling.n for group in self._waiting) >= self.traits.room

    def _decode(self, batch: Sequence[_Group]) -> None:
        """In the engine's thread."""
        loop = batch[0].loop

        def stop() -> bool:
            for group in batch:
                if group.is_cancelled:
                    loop.call_soon_threadsafe(group.let_go.set)
            return all(group.is_cancelled for group in batch)

        try:
            for index, completions in self._engine.generate([group.prepared for group in batch], stop):
                loop.call_soon_threadsafe(_finish, batch[index], completions)
        finally:
            for group in batch:
                loop.call_soon_threadsafe(group.let_go.set)


def _finish(group: _Group, completions: list[Completion]) -> None:
    if not group.done.done():
        group.done.set_result(completions)
