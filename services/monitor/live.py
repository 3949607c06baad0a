"""The live stream of a job: what happened, told to any number of listeners, each with a bounded memory.

A listener that reads too slowly loses the oldest notices, never the newest, and is told how many it lost.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

NOTICES_KEPT = 256
"""Notices that wait for one slow listener."""
LISTENERS = 64
"""Listeners at a time, over all jobs."""


class Notice(NamedTuple):
    """One event of the stream; `data` is JSON text."""

    event: str
    data: str


class Listener:
    """One reader of a job's stream."""

    def __init__(self) -> None:
        self._waiting: deque[Notice] = deque(maxlen=NOTICES_KEPT)
        self._lost = 0
        self._bell = asyncio.Event()

    def tell(self, notice: Notice) -> None:
        self._lost += len(self._waiting) == NOTICES_KEPT
        self._waiting.append(notice)
        self._bell.set()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def next(self, limit_s: float) -> list[Notice]:
        """What has come since the last call; waits up to `limit_s` for something."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._bell.wait()
        self._bell.clear()
        notices, lost = list(self._waiting), self._lost
        self._waiting.clear()
        self._lost = 0
        return [Notice("lost", json.dumps({"lost": lost})), *notices] if lost else notices


class Live:
    """Passes notices on to the listeners of a job."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Listener]] = {}

    def tell(self, job: str, event: str, data: dict[str, Any]) -> None:
        listeners = self._listeners.get(job)
        if listeners:
            notice = Notice(event, json.dumps(data, allow_nan=False))
            for listener in listeners:
                listener.tell(notice)

    def listeners(self, job: str) -> list[Listener]:
        """Who listens to a job now."""
        return list(self._listeners.get(job, ()))

    @property
    def is_full(self) -> bool:
        return sum(len(listeners) for listeners in self._listeners.values()) >= LISTENERS

    @contextlib.contextmanager
    def listening(self, job: str) -> Iterator[Listener]:
        listener = Listener()
        self._listeners.setdefault(job, set()).add(listener)
        try:
            yield listener
        finally:
            self._listeners[job].discard(listener)
            if not self._listeners[job]:
                del self._listeners[job]
