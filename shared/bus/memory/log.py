"""Reading a stream in memory in order from a sequence: the journal and the events."""

import time
from collections.abc import Sequence

from shared.bus.memory.server import MemoryServer
from shared.bus.port import JournalEntry
from shared.messages import decode


class MemoryJournalReader:
    """Reads a part of a job's log in order (`shared.bus.port.JournalReader`); `floor` is what `ack` raises."""

    def __init__(
        self, server: MemoryServer, stream: str, subjects: Sequence[str], start: int, floor: tuple[str, str] | None
    ) -> None:
        self._server, self._stream, self._subjects = server, stream, frozenset(subjects)
        self._next, self._floor = start, floor

    @property
    def position(self) -> int:
        return self._next - 1

    async def fetch(self, max_messages: int, wait_s: float) -> Sequence[JournalEntry]:
        stream, until = self._server.streams[self._stream], time.monotonic() + wait_s
        while True:
            for subject in self._subjects:
                stream.check_start(subject, self._next)
            found = stream.after(self._next - 1, lambda subject: subject in self._subjects, max_messages)
            if found:
                self._next = found[-1].sequence + 1
                return [
                    JournalEntry(stored.sequence, decode(stored.body), stored.trace, stored.body) for stored in found
                ]
            left = until - time.monotonic()
            if left <= 0:
                return []
            await self._server.wait_change(left)

    async def ack(self, sequence: int) -> None:
        if self._floor is not None:
            self._server.floors[self._floor] = max(sequence, self._server.floors.get(self._floor, 0))

    async def close(self) -> None:
        return
