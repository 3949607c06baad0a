"""Prompts made ahead of the window, so that a window that opens is filled at once."""

import asyncio
from collections import deque
from collections.abc import Callable

from services.data.mixing.order import Draft


class Ahead:
    """The coming drafts in order, at most `limit` of them, made in a worker thread by `run`."""

    def __init__(self, limit: int, at_once: int) -> None:
        self._limit, self._at_once = limit, at_once
        self._make: Callable[[int], Draft] | None = None
        self._next, self._end = 0, 0
        self._drafts: deque[Draft] = deque()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._drafts)

    def restart(self, make: Callable[[int], Draft], start: int, end: int | None) -> None:
        """Forget what was made; from now on make ordinals from `start` up to, not including, `end`."""
        self._make, self._next = make, start
        self._end = 2**63 if end is None else end
        self._drafts.clear()
        self._changed.set()

    async def run(self) -> None:
        """Make drafts for ever; raises what making one raises."""
        while True:
            make, start = self._make, self._next
            count = min(self._at_once, self._limit - len(self._drafts), self._end - start)
            if make is None or count <= 0:
                await self._wait()
                continue
            drafts = await asyncio.to_thread(_make, make, range(start, start + count))
            if make is self._make and start == self._next:  # else `restart` came in between
                self._drafts.extend(drafts)
                self._next += count
                self._changed.set()

    async def take(self, most: int) -> list[Draft]:
        """At most `most` drafts in order, as soon as there is one."""
        while not self._drafts:
            await self._wait()
        taken = [self._drafts.popleft() for _ in range(min(most, len(self._drafts)))]
        self._changed.set()
        return taken

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _make(make: Callable[[int], Draft], ordinals: range) -> list[Draft]:
    return [make(ordinal) for ordinal in ordinals]
