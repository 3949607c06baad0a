"""The one policy towards a peer that is away (NATS, Redis, the blob store, a verifier worker that is being replaced).

A peer that is away is waited for: the call is tried again with back-off, the message in hand is kept alive, nothing is
counted, and it is said once a minute in the log and all the time in the service's state. Only work that died counts:
`Delivery.attempts`, which a hand-back does not raise. Only a first connection has a limit of its own (`CONNECT_S`); who
can't wait (a request of the API, a group's deadline) says so by `within` or `limit_s`.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from shared.bus.port import DELIVERY_BUDGET, HEARTBEAT_S, Delivery
from shared.errors import BlobMissing, Unavailable
from shared.runtime.logging import get_logger

BLOB_STORE = "the blob store"
CONNECT_S = 60.0
"""How long a first connection may take."""
TELL_S = 60.0
"""How often the log says that a peer is still away."""
MISSING_S = 5.0
"""A blob that is not there is looked for again for so long: a shared file system may show it late."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0

Result = TypeVar("Result")
_until: ContextVar[float | None] = ContextVar("until", default=None)


@contextlib.contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Whoever waits for a peer inside gets Unavailable once `limit_s` are over; else it waits as long as it takes."""
    until = time.monotonic() + limit_s
    outer = _until.get()
    token = _until.set(until if outer is None else min(until, outer))
    try:
        yield
    finally:
        _until.reset(token)


def is_spent(delivery: Delivery) -> bool:
    """Whether work on the message has died so often that it is given up: its group is void, its letter dead."""
    return delivery.attempts > DELIVERY_BUDGET


def time_left() -> float | None:
    """Seconds that are left of the caller's `within`; None: it waits as long as it takes."""
    until = _until.get()
    return None if until is None else max(until - time.monotonic(), 0.0)


@contextlib.asynccontextmanager
async def kept_alive(delivery: Delivery) -> AsyncIterator[None]:
    """The message stays ours while the work inside goes on, whoever is away meanwhile."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            with contextlib.suppress(Unavailable):
                await delivery.keep()

    task = asyncio.ensure_future(keep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


class Retry:
    """One a process: who is away, and how the wait goes on. Its methods may be called from any thread."""

    def __init__(self, *, longest_pause_s: float = LONGEST_PAUSE_S, missing_s: float = MISSING_S) -> None:
        self.longest_pause_s, self.missing_s = longest_pause_s, missing_s
        self._lock = threading.Lock()
        self._waits: dict[str, int] = {}  # peer -> how many wait for it
        self._told_at: dict[str, float] = {}
        self._is_over = threading.Event()

    @property
    def waiting_for(self) -> str:
        """The peer that is away for the longest time; empty while none is."""
        with self._lock:
            return next(iter(self._waits), "")

    async def until_back(
        self, peer: str, work: Callable[[], Awaitable[Result]], *, limit_s: float | None = None
    ) -> Result:
        """`work()`, again with back-off while it raises Unavailable; that error itself once `limit_s` are over.

        BlobMissing is no outage: it is raised after `missing_s`.
        """
        with self.waiting(peer, limit_s) as wait:
            while True:
                try:
                    return await work()
                except Unavailable as error:
                    pause_s = wait.pause(error)
                await asyncio.sleep(pause_s)

    def block_until_back(self, peer: str, work: Callable[[], Result], *, limit_s: float | None = None) -> Result:
        """`until_back` for code that runs in a thread of its own; ends with Unavailable when the process stops."""
        with self.waiting(peer, limit_s) as wait:
            while True:
                try:
                    return work()
                except Unavailable as error:
                    if self._is_over.wait(wait.pause(error)):
                        raise

    @contextlib.contextmanager
    def waiting(self, peer: str, limit_s: float | None = None) -> Iterator["Wait"]:
        """For a loop of one's own: call `pause` after each try that failed."""
        wait = Wait(self, peer, limit_s)
        try:
            yield wait
        finally:
            wait.end()

    def lost(self, peer: str) -> None:
        """`peer` is away, and waited for once more."""
        with self._lock:
            self._waits[peer] = self._waits.get(peer, 0) + 1

    def found(self, peer: str) -> None:
        """One waits no longer for `peer`: it is back, or given up."""
        with self._lock:
            if self._waits.get(peer, 0) > 1:
                self._waits[peer] -= 1
                return
            self._waits.pop(peer, None)
            was_told = self._told_at.pop(peer, None) is not None
        if was_told:
            get_logger().info("waited for no longer", peer=peer)

    def tell(self, peer: str, error: Exception) -> None:
        """Say in the log that `peer` is away, at most once a minute for all that wait."""
        now = time.monotonic()
        with self._lock:
            if now < self._told_at.get(peer, float("-inf")) + TELL_S:
                return
            self._told_at[peer] = now
        get_logger().warning("waiting for a peer that is away", peer=peer, error=str(error))

    def close(self) -> None:
        """The process stops: who blocks a thread waits no longer."""
        self._is_over.set()


class Wait:
    """One call's wait for one peer."""

    def __init__(self, retry: Retry, peer: str, limit_s: float | None) -> None:
        self._retry, self._peer = retry, peer
        self._began, self._pause_s = time.monotonic(), FIRST_PAUSE_S
        own, ambient = None if limit_s is None else self._began + limit_s, _until.get()
        self._until = min((one for one in (own, ambient) if one is not None), default=None)
        self._missed_at: float | None = None  # since when it is missing, which an outage before does not count towards
        self._waits_for: str | None = None

    def try_s(self, most_s: float) -> float:
        """Seconds that the next try may take: at most `most_s`, and no longer than whoever waits."""
        return most_s if self._until is None else min(most_s, max(self._until - time.monotonic(), 0.0))

    def pause(self, error: Exception, peer: str | None = None) -> float:
        """Seconds until the next try; raises `error` when there is no time for one. `peer`: who it is that failed."""
        now, pause_s = time.monotonic(), self._pause_s
        until = self._until
        if isinstance(error, BlobMissing):
            self._missed_at = now if self._missed_at is None else self._missed_at
            until = min(until or float("inf"), self._missed_at + self._retry.missing_s)
        if until is not None and now + pause_s > until:
            raise error
        peer = peer or self._peer
        if peer != self._waits_for:
            self.end()
            self._waits_for = peer
            self._retry.lost(peer)
        self._retry.tell(peer, error)
        self._pause_s = min(2 * pause_s, self._retry.longest_pause_s)
        return pause_s

    def end(self) -> None:
        """The wait is over, whatever came of it."""
        if self._waits_for is not None:
            self._retry.found(self._waits_for)
            self._waits_for = None
