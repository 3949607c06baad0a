"""What the servers hold, in memory: streams, consumers, records, and the clock that redelivery goes by."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shared.bus.memory.streams import MemoryConsumer, MemoryStream
from shared.bus.port import ACK_WAIT_S, MAX_IN_HAND, STREAMS, WORK_STREAMS, Record
from shared.errors import Corrupt, Unavailable
from shared.messages import Heartbeat

LOOK_S = 0.01
"""How often a waiting fetch looks at the injected clock again, in seconds of real time."""


class _Streams(dict[str, MemoryStream]):
    """Streams by name; one that is gone is told as on a real server."""

    def __missing__(self, name: str) -> MemoryStream:
        raise Corrupt(f"stream {name} is gone: the server in memory has lost its data")


@dataclass
class MemoryServer:
    """What several `MemoryBus` handles share: streams, records, and the clock that redelivery goes by.

    `max_bytes` limits single streams (absent: unlimited); `max_in_hand` what one consumer has handed out; `clock` gives
    seconds and only ever rises.
    """

    clock: Callable[[], float] = time.monotonic
    ack_wait_s: float = ACK_WAIT_S
    max_bytes: Mapping[str, int] = field(default_factory=dict)
    max_in_hand: int = MAX_IN_HAND

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self.listeners: list[asyncio.Queue[Heartbeat]] = []
        self.wipe()
        self.set_up()

    def wipe(self) -> None:
        """It comes back without its data: streams, consumers and records are gone until somebody sets them up."""
        self.streams = _Streams()
        self.consumers: dict[str, MemoryConsumer] = {}  # by subject
        self.floors: dict[tuple[str, str], int] = {}  # (subject, durable reader) -> acked up to
        self.records: dict[str, Record] = {}
        self.revision = 0
        self.changed()

    def set_up(self) -> None:
        """Create the streams that are missing."""
        for name in STREAMS:
            if name not in self.streams:
                self.streams[name] = MemoryStream(name, self.max_bytes.get(name), self.clock)

    def restart(self) -> None:
        """It comes back with its data: ids of messages that are gone are forgotten, what was handed out is not."""
        for stream in self.streams.values():
            stream.forget_ids()
        self.changed()

    def changed(self) -> None:
        """Wake everybody who waits for something new."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_change(self, limit_s: float) -> None:
        """Return at the next change, or after `limit_s` seconds."""
        try:
            async with asyncio.timeout(limit_s):
                await self._changed.wait()
        except TimeoutError:
            return

    async def drain(self, limit_s: float = 60.0) -> None:
        """Return when no prompt and no completion is left, handed out or not; Unavailable after `limit_s`."""
        until = time.monotonic() + limit_s
        while any(self.streams[name].entries for name in WORK_STREAMS):
            if time.monotonic() >= until:
                left = {name: len(self.streams[name].entries) for name in WORK_STREAMS}
                raise Unavailable(f"work is left in memory after {limit_s} s: {left}, expected none")
            await self.wait_change(LOOK_S)
