"""A blocking engine as a stream: groups that come join those that are being generated, in a thread of its own.

Prompts are prepared in a pool beside it, so that decoding never waits for an image.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from services.rollout.engine import Facts, Loaded, Prepared, PreparedPrompt, Traits, UpdateMode
from services.rollout.engines.feed import Feed
from shared.blobs.weights import WeightsAt
from shared.errors import TriuneError, Unavailable
from shared.messages import Completion, Prompt

_PREPARERS = min(4, os.cpu_count() or 1)


class BlockingEngine(Protocol):
    """One model on one device. `stream` and `load` come from one thread; `prepare` from several, beside them."""

    @property
    def facts(self) -> Facts: ...
    @property
    def patch_size(self) -> int: ...
    def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt: ...
    def stream(self, feed: Feed) -> Iterator[tuple[int, list[Completion]]]:
        """Sample the groups of `feed` as they come; yields (a group's number, its n completions) once it is whole.

        Returns when none is left and none is to begin.
        """
        ...

    def load(self, at: WeightsAt) -> None:
        """Copy the `changed` tensors; raises Corrupt before any is copied when one does not fit the model."""
        ...

    def sleep(self) -> None:
        """Free the device of weights and caches, until the next `load`, of all tensors."""
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

    def tell(self, work: Callable[[], None]) -> None:
        """From the engine's thread."""
        self.loop.call_soon_threadsafe(work)

    def finish(self, completions: list[Completion]) -> None:
        if not self.done.done():
            self.done.set_result(completions)

    def fail(self, error: TriuneError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Queue:
    """`services.rollout.engines.feed.Feed` of the groups that wait; shared by the service's loop and the thread."""

    def __init__(self, room: int) -> None:
        self._room, self._lock = room, threading.Lock()
        self._waiting: list[_Group] = []
        self._open: dict[int, _Group] = {}
        self._loads = self._taken = 0

    def put(self, group: _Group) -> None:
        with self._lock:
            self._waiting.append(group)

    def withdraw(self, group: _Group) -> bool:
        """Whether it had not begun: it will not now."""
        with self._lock:
            if group not in self._waiting:
                return False
            self._waiting.remove(group)
            return True

    @property
    def is_empty(self) -> bool:
        """Whether no group waits."""
        return not self._waiting

    def ready(self, busy: int) -> int:
        with self._lock:
            return sum(group.prepared.sampling.n for group in self._fitting(busy))

    def take(self, busy: int) -> Sequence[PreparedPrompt]:
        with self._lock:
            taken = list(self._fitting(busy))
            del self._waiting[: len(taken)]
        self._open.update(enumerate(taken, self._taken))
        self._taken += len(taken)
        return [group.prepared for group in taken]

    def _fitting(self, busy: int) -> Iterator[_Group]:
        """The first ones that fit, one at least where nothing is busy; none while weights wait to be loaded."""
        for group in () if self._loads else self._waiting:
            n = group.prepared.sampling.n
            if busy and busy + n > self._room:
                return
            busy += n
            yield group

    def cancelled(self) -> Sequence[int]:
        numbers = [number for number, group in self._open.items() if group.is_cancelled]
        for number in numbers:
            group = self._open.pop(number)
            group.tell(group.let_go.set)
        return numbers

    def finish(self, number: int, completions: list[Completion]) -> None:
        group = self._open.pop(number)
        group.tell(partial(group.finish, completions))
        group.tell(group.let_go.set)

    def begin(self) -> None:
        """Groups are numbered from 0 again."""
        self._taken = 0

    def end(self, error: TriuneError | None = None) -> None:
        """The thread works on no group any more; `error`: why some are not whole."""
        while self._open:
            _, group = self._open.popitem()
            group.tell(group.let_go.set)
            if error is not None:
                group.tell(partial(group.fail, error))

    def hold(self, change: int) -> None:
        """One more load waits (1), or one less (-1)."""
        with self._lock:
            self._loads += change


class BatchingEngine:
    """See `services.rollout.engine.Engine`; `room` completions are generated at once."""

    def __init__(self, engine: BlockingEngine, room: int, grace_s: float) -> None:
        """`grace_s`: how long the thread may take to let go of a cancelled group."""
        self._engine, self._grace_s = engine, grace_s
        self.traits = Traits(room=room, in_flight_updates=False)
        self._thread = ThreadPoolExecutor(1, "engine")
        self._pool = ThreadPoolExecutor(_PREPARERS, "prepare")
        self._queue = _Queue(room)
        self._arrival = asyncio.Event()
        self._decoding: asyncio.Task[None] | None = None

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
        self._queue.put(group)
        self._arrival.set()
        if self._decoding is None:
            self._decoding = asyncio.create_task(self._keep_decoding())
        either: set[asyncio.Future[Any]] = {group.done, self._decoding}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._abort(group)
            raise
        if not group.done.done():
            self._decoding.result()  # raises: a fault of the engine is every group's
        return group.done.result()

    async def _abort(self, group: _Group) -> None:
        """Return when the thread has let go of `group`; raises Unavailable when it does not."""
        group.is_cancelled = group.done.cancel()
        if self._queue.withdraw(group):
            return
        try:
            async with asyncio.timeout(self._grace_s):
                await group.let_go.wait()
        except TimeoutError:
            raise Unavailable(f"the engine did not let go of a group within {self._grace_s} s") from None

    async def load(self, at: WeightsAt, *, mode: UpdateMode = "drain") -> Loaded:
        assert mode == "drain"
        began = time.monotonic()
        self._queue.hold(1)
        await asyncio.get_running_loop().run_in_executor(self._thread, partial(self._load, at))
        return Loaded(at.version, time.monotonic() - began, 0)

    async def sleep(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.sleep)

    def _load(self, at: WeightsAt) -> None:
        try:
            self._engine.load(at)
        finally:
            self._queue.hold(-1)

    async def aclose(self) -> None:
        if self._decoding is not None:
            self._decoding.cancel()
            await asyncio.wait({self._decoding})
        for pool in (self._thread, self._pool):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _keep_decoding(self) -> None:
        """An idle engine begins at once: what comes meanwhile joins."""
        loop = asyncio.get_running_loop()
        while True:
            if self._queue.is_empty:
                self._arrival.clear()
                await self._arrival.wait()
            await loop.run_in_executor(self._thread, self._decode)

    def _decode(self) -> None:
        """In the engine's thread, until there is nothing to do."""
        self._queue.begin()
        failed: TriuneError | None = None
        try:
            for number, completions in self._engine.stream(self._queue):
                self._queue.finish(number, completions)
        except TriuneError as error:
            failed = error
        finally:
            self._queue.end(failed)
