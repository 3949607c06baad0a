"""Which weights the engine runs, and which groups may start on them.

Training runs the newest weights, an evaluation exactly its version and before training. One task, `steer`, loads; the
groups' own tasks only wait at the gate. A version never goes back while training groups are being generated, so what
was admitted by a window stays within its bound, also when weights change under a group.
"""

import asyncio
import bisect
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from services.rollout.engine import Engine, Loaded, UpdateMode
from shared.blobs.weights import WeightsAt
from shared.errors import BlobMissing, Unavailable
from shared.messages import BlobRef
from shared.runtime.retry import BLOB_STORE, Retry

Found = TypeVar("Found")
_AGAIN_S = 0.05
"""A version whose blobs are gone was replaced by a newer announcement, which comes within moments."""


@dataclass(frozen=True)
class Target:
    """A version and its manifest."""

    version: int
    manifest: BlobRef


@dataclass(frozen=True, eq=False)
class Want:
    """What a group is to be generated with: `exactly` one version (evaluation), or the newest, `at_least` one.

    Of those that wait, the lowest `ordinal` goes first: the learner consumes them in order.
    """

    ordinal: int
    rows: int
    at_least: int = 0
    exactly: int | None = None


class View(Protocol):
    """What has been announced; `services.rollout.weights.WeightsView`."""

    news: "Bell"

    @property
    def newest(self) -> Target | None: ...
    def admits(self, ordinal: int) -> bool: ...
    def expects(self, ordinal: int) -> bool: ...
    def due(self, version: int) -> Target | None: ...
    def evaluation_done(self, version: int) -> bool: ...


class Source(Protocol):
    """Brings weights to this host; `services.rollout.weights.WeightsLoader`. Its methods block."""

    def at(self, target: Target) -> WeightsAt: ...
    def loaded(self, target: Target, at: WeightsAt) -> None: ...
    def forget(self) -> None: ...
    def runs(self, target: Target) -> bool: ...


class Bell:
    """Wakes all who wait for a condition over plain state, after it has told who `listens`."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` at each ring."""
        self._listeners.append(listener)

    def ring(self) -> None:
        for listener in self._listeners:
            listener()
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def until(self, condition: Callable[[], Found | None]) -> Found:
        """The first true value of `condition()`, looked at now and at each ring; nothing runs in between."""
        while not (found := condition()):
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)
        return found


Answer = Literal["in", "dropped"]


@dataclass(frozen=True, eq=False)
class _Waiter:
    """A group that wants in. `announced`: its weights are known; `answer`: what it is told at the gate."""

    want: Want
    announced: asyncio.Future[None]
    answer: asyncio.Future[Answer]


class Gate:
    """The way into one engine.

    Thousands may wait, so a change wakes none but those whom it lets in: they are looked at from the front of their
    line (a line for each version that is evaluated, one for training).
    """

    def __init__(
        self,
        engine: Engine,
        view: View,
        source: Source,
        mode: UpdateMode,
        limit_s: float,
        on_loaded: Callable[[Loaded, int, float], Awaitable[None]],
        retry: Retry,
    ) -> None:
        """`on_loaded` is told each load, the bytes that were fetched for it, and the seconds that it took."""
        self._engine, self._view, self._source = engine, view, source
        self._limit_s, self._on_loaded, self._retry = limit_s, on_loaded, retry
        self._keeps = mode == "keep" and engine.traits.in_flight_updates
        self._bell = view.news
        self._bell.listen(self._admit)
        self._lines: dict[int | None, list[_Waiter]] = {}  # by the version that is wanted exactly, in their order
        self._inside: set[_Waiter] = set()
        self._unannounced: list[_Waiter] = []
        self._rows = 0  # of all that are inside
        self._turning: UpdateMode | None = None
        self._evaluates = self._is_lent = False
        self._steering = asyncio.Lock()  # held while weights are on their way to the engine
        self.version = -1

    @contextlib.asynccontextmanager
    async def enter(self, want: Want) -> AsyncIterator[bool]:
        """Inside, the engine runs what `want` asks for; False: nobody waits for that evaluation any more.

        Raises TimeoutError when its weights are neither announced in time nor said to come.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(want, loop.create_future(), loop.create_future())
        bisect.insort(self._lines.setdefault(want.exactly, []), waiter, key=_ordinal)
        self._unannounced.append(waiter)
        self._bell.ring()
        try:
            async with asyncio.timeout(self._limit_s):
                await waiter.announced
            yield await waiter.answer == "in"
        finally:
            self._leave(waiter)
            self._bell.ring()

    def _admit(self) -> None:
        """Tell those what they wait for who can be told now; evaluations go before training."""
        self._unannounced = [waiter for waiter in self._unannounced if not self._tell_announced(waiter)]
        for version in sorted(self._lines, key=lambda version: math.inf if version is None else version):
            line = self._lines[version]
            while line and (answer := self._answer(line[0].want)):
                waiter = line.pop(0)
                if waiter.answer.done():  # it was cancelled, and will leave
                    continue
                waiter.answer.set_result(answer)
                if answer == "in":
                    self._inside.add(waiter)
                    self._rows += waiter.want.rows
            if not line:
                del self._lines[version]

    def _tell_announced(self, waiter: _Waiter) -> bool:
        """Whether it need not be told any more."""
        if not waiter.announced.done() and self._announced(waiter.want):
            waiter.announced.set_result(None)
        return waiter.announced.done()

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._inside:
            self._inside.remove(waiter)
            self._rows -= waiter.want.rows
            return
        line = self._lines.get(waiter.want.exactly, [])
        if waiter in line:
            line.remove(waiter)
            if not line:
                del self._lines[waiter.want.exactly]

    async def empty(self) -> None:
        """Return once no group waits or is inside."""
        await self._bell.until(lambda: not self._inside and not self._lines)

    async def lend(self) -> None:
        """Return once what is inside has ended and the engine has left its device; until `take_back` nothing enters."""
        self._is_lent = True
        self._bell.ring()
        async with self._steering:  # what is being fetched is a delta on weights that are forgotten here
            await self._bell.until(lambda: not self._inside)
            await self._engine.sleep()
            self._source.forget()
            self.version = -1

    def take_back(self) -> None:
        """The device is the engine's again: it wakes with the weights that are wanted."""
        self._is_lent = False
        self._bell.ring()

    async def steer(self) -> None:
        """Bring the engine to the weights that are wanted, for ever."""
        while True:
            target = await self._bell.until(self._target)
            async with self._steering:
                at = await self._fetch(target)
                if at is not None:
                    await self._turn_to(target, at)

    async def _fetch(self, target: Target) -> WeightsAt | None:
        """The weights on this host; None when others are wanted meanwhile. Groups go on starting on the old ones.

        A blob store that is away is waited for; blobs that are missing may take as long as an announcement.
        """
        until = time.monotonic() + self._limit_s
        with self._retry.waiting(BLOB_STORE) as wait:
            while target == self._target():
                try:
                    return await asyncio.to_thread(self._source.at, target)
                except BlobMissing:
                    if time.monotonic() >= until:
                        raise
                    await asyncio.sleep(_AGAIN_S)
                except Unavailable as error:
                    await asyncio.sleep(wait.pause(error))
                    until = time.monotonic() + self._limit_s
        return None

    async def _turn_to(self, target: Target, at: WeightsAt) -> None:
        """Load `at`, under the groups that are inside or after them, unless others are wanted by then."""
        began = time.monotonic()
        self._turning = "keep" if self._keeps and self._exact() is None else "drain"
        try:
            if self._turning == "drain":
                await self._bell.until(lambda: not self._inside)
            exact = self._exact()
            if target != self._target():
                at.close()
                return
            loaded = await self._engine.load(at, mode=self._turning)
            self._source.loaded(target, at)
            self.version, self._evaluates = target.version, exact is not None
        finally:
            self._turning = None
            self._bell.ring()
        await self._on_loaded(loaded, at.bytes_read, time.monotonic() - began)

    def _announced(self, want: Want) -> bool:
        if want.exactly is not None:
            return self._view.due(want.exactly) is not None or self._view.evaluation_done(want.exactly)
        return self._view.expects(want.ordinal) or self._newest() >= want.at_least

    def _answer(self, want: Want) -> Answer | None:
        """For the first of a line; None while it has to wait."""
        if want.exactly is not None and self._view.evaluation_done(want.exactly):
            return "dropped"
        return "in" if self._announced(want) and self._fits(want) and self._runs(want) else None

    def _fits(self, want: Want) -> bool:
        return not self._inside or self._rows + want.rows <= self._engine.traits.room

    def _runs(self, want: Want) -> bool:
        """Whether the engine runs what `want` asks for.

        Training groups start on older weights while newer ones are fetched, but not on those of an evaluation.
        """
        exact = self._exact()
        if self._is_lent:
            return False
        if want.exactly is not None:
            return want.exactly == exact == self.version and self._target() is None and self._turning is None
        if exact is not None or self._turning == "drain" or not self._is_admitted(want):
            return False
        return self._target() is None or not self._evaluates

    def _is_admitted(self, want: Want) -> bool:
        """Whether the window of the weights that the engine runs admits a training group.

        The newest one may by now admit what was meant to wait for the next one.
        """
        if self.version >= want.at_least:
            return True
        return self.version == self._newest() and self._view.admits(want.ordinal)

    def _newest(self) -> int:
        """The newest version that was announced; -1 while there is none."""
        return -1 if self._view.newest is None else self._view.newest.version

    def _exact(self) -> int | None:
        """The version of the evaluation that goes first: the one that is inside, else the lowest that waits."""
        inside = (waiter.want.exactly for waiter in self._inside)
        for wanted in (inside, self._lines):
            versions = [version for version in wanted if version is not None]
            if versions:
                return min(versions)
        return None

    def _target(self) -> Target | None:
        """The weights that the engine should run and does not."""
        if self._is_lent:
            return None
        exact = self._exact()
        found = self._view.newest if exact is None else self._view.due(exact)
        return None if found is None or self._source.runs(found) else found


def _ordinal(waiter: _Waiter) -> int:
    return waiter.want.ordinal
