"""Any bus with injected outages: what a network and a server do to a service, for tests.

    faults = Faults(seed=1, lost_acks=0.3)
    bus = FaultyBus(MemoryBus(server), faults)   # the service's handle; the test keeps a calm one
    faults.go_away(); ...; faults.come_back()

What the *server* forgets (its data, the ids that it has seen, how much a consumer may hold) is
`shared.bus.memory.server.MemoryServer`'s to play, or a real server's.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from shared.bus.port import (
    Bus,
    Delivery,
    JournalEntry,
    JournalReader,
    Record,
    StreamState,
    WorkQueue,
)
from shared.errors import Unavailable
from shared.messages import AnyMessage, DeadLetter, Event, Heartbeat, Kind, Message
from shared.runtime.retry import time_left


@dataclass
class Faults:
    """What goes wrong, for all handles that share it; a test changes it while services run.

    Shares are probabilities from 0 to 1, drawn from `seed`. A call while the bus is away waits for it as long as its
    caller can (`shared.runtime.retry.within`).
    """

    seed: int = 0
    latency_s: float = 0.0
    """Every call takes up to so much longer."""
    empty_fetches: float = 0.0
    """Share of fetches that answer with nothing, whatever there is: the server was away for a moment."""
    lost_acks: float = 0.0
    """Share of acks that never reach the server: the message is delivered again."""
    late_answers: float = 0.0
    """Share of publishes that are stored, and sent once more since their answer was lost."""
    hand_backs: int = 0
    """Every message was handed back so often before, by replicas that were stopped in order."""
    ids_forgotten: bool = False
    """A publish that is sent once more is stored again: its id has left the server's window."""
    injected: Counter[str] = field(default_factory=Counter)
    """How often each kind of fault has struck."""

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._here = asyncio.Event()
        self._here.set()

    @property
    def is_away(self) -> bool:
        return not self._here.is_set()

    def go_away(self) -> None:
        """From now on no call gets through."""
        self.injected["away"] += 1
        self._here.clear()

    def come_back(self) -> None:
        self._here.set()

    def strikes(self, what: str, share: float) -> bool:
        """Whether the fault `what` strikes this time."""
        hit = share > 0.0 and self._draw.random() < share
        self.injected[what] += hit
        return hit

    async def reach(self, what: str) -> None:
        """Return once the server has the call; raises Unavailable when its caller can't wait so long."""
        if self.latency_s:
            await asyncio.sleep(self._draw.random() * self.latency_s)
        if not await self.waited(time_left()):
            raise Unavailable(f"{what}: the bus does not take it")

    async def waited(self, limit_s: float | None) -> bool:
        """Whether the bus is there, or comes back within `limit_s` (None: however long it takes)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._here.wait()
        return self._here.is_set()


class FaultyDelivery:
    """A delivery whose answers may be lost (`shared.bus.port.Delivery`)."""

    def __init__(self, inner: Delivery, faults: Faults) -> None:
        self._inner, self._faults = inner, faults
        self.message: AnyMessage = inner.message
        self.subject, self.sequence, self.trace = inner.subject, inner.sequence, inner.trace
        self.deliveries, self.attempts = inner.deliveries + faults.hand_backs, inner.attempts

    async def ack(self) -> None:
        if not self._faults.is_away and not self._faults.strikes("lost ack", self._faults.lost_acks):
            await self._inner.ack()

    async def keep(self) -> None:
        if not self._faults.is_away:
            await self._inner.keep()

    async def hand_back(self, delay_s: float = 0.0, *, counts: bool = False) -> None:
        if not self._faults.is_away:
            await self._inner.hand_back(delay_s, counts=counts)


class FaultyWorkQueue:
    """`shared.bus.port.WorkQueue`: a server that is away looks like one that has nothing."""

    def __init__(self, inner: WorkQueue, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    async def fetch(self, max_messages: int, wait_s: float) -> Sequence[FaultyDelivery]:
        if not await self._faults.waited(wait_s) or self._faults.strikes("empty fetch", self._faults.empty_fetches):
            return []
        return [FaultyDelivery(one, self._faults) for one in await self._inner.fetch(max_messages, wait_s)]


class FaultyJournalReader:
    """`shared.bus.port.JournalReader`: a server that is away looks like one that has nothing."""

    def __init__(self, inner: JournalReader, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    @property
    def position(self) -> int:
        return self._inner.position

    async def fetch(self, max_messages: int, wait_s: float) -> Sequence[JournalEntry]:
        if not await self._faults.waited(wait_s) or self._faults.strikes("empty fetch", self._faults.empty_fetches):
            return []
        return await self._inner.fetch(max_messages, wait_s)

    async def ack(self, sequence: int) -> None:
        await self._faults.reach("ack the journal")
        await self._inner.ack(sequence)

    async def close(self) -> None:
        await self._inner.close()


class FaultyBus:
    """One service's handle on `inner`, through `faults` (`shared.bus.port.Bus`)."""

    def __init__(self, inner: Bus, faults: Faults) -> None:
        self._inner, self.faults = inner, faults

    # ---- publish
    async def publish(self, stream: str, job: str, kind: Kind, message: Message, message_id: str) -> int:
        await self.faults.reach(f"publish {stream}.{job}.{kind}")
        sequence = await self._inner.publish(stream, job, kind, message, message_id)
        if self.faults.strikes("late answer", self.faults.late_answers):
            again = f"{message_id}#again" if self.faults.ids_forgotten else message_id
            sequence = await self._inner.publish(stream, job, kind, message, again)
        return sequence

    async def announce(self, event: Event, *, expected_last: int | None = None) -> int:
        await self.faults.reach(f"announce {type(event).__name__}")
        return await self._inner.announce(event, expected_last=expected_last)

    # ---- work
    async def work(self, stream: str, job: str, kind: Kind) -> FaultyWorkQueue:
        await self.faults.reach(f"work on {stream}")
        return FaultyWorkQueue(await self._inner.work(stream, job, kind), self.faults)

    async def waiting(self, stream: str, job: str, kind: Kind) -> tuple[int, int]:
        await self.faults.reach(f"count {stream}")
        return await self._inner.waiting(stream, job, kind)

    async def stored(self, stream: str, job: str, kind: Kind) -> int:
        await self.faults.reach(f"count {stream}")
        return await self._inner.stored(stream, job, kind)

    async def erase_job(self, job: str) -> None:
        await self.faults.reach(f"erase {job}")
        await self._inner.erase_job(job)

    async def dead_letters(self, job: str, limit: int) -> Sequence[DeadLetter]:
        await self.faults.reach(f"read dead.{job}")
        return await self._inner.dead_letters(job, limit)

    async def forget_job(self, job: str) -> None:
        await self.faults.reach(f"forget {job}")
        await self._inner.forget_job(job)

    # ---- log
    async def read_journal(
        self, job: str, kind: Kind, *, start: int | None = None, durable: str | None = None
    ) -> FaultyJournalReader:
        await self.faults.reach(f"read the journal of {job}")
        return FaultyJournalReader(await self._inner.read_journal(job, kind, start=start, durable=durable), self.faults)

    async def read_events(
        self, job: str, *names: str, start: int = 1, durable: str | None = None
    ) -> FaultyJournalReader:
        await self.faults.reach(f"read the events of {job}")
        reader = await self._inner.read_events(job, *names, start=start, durable=durable)
        return FaultyJournalReader(reader, self.faults)

    async def last_sequence(self, stream: str, job: str, name: str) -> int:
        await self.faults.reach(f"look at {stream}.{job}.{name}")
        return await self._inner.last_sequence(stream, job, name)

    async def purge(self, stream: str, job: str, name: str, *, below: int | None = None) -> None:
        await self.faults.reach(f"purge {stream}")
        await self._inner.purge(stream, job, name, below=below)

    async def floor(self, stream: str, job: str, name: str, durable: str) -> int:
        await self.faults.reach(f"read the floor of {job}")
        return await self._inner.floor(stream, job, name, durable)

    # ---- events
    async def last_event(self, job: str, name: str) -> tuple[Event, int] | None:
        await self.faults.reach(f"read events.{job}.{name}")
        return await self._inner.last_event(job, name)

    async def events(self, job: str, *names: str, after: int = 0) -> AsyncIterator[tuple[Event, int]]:
        async for event, sequence in self._inner.events(job, *names, after=after):
            while not await self.faults.waited(1.0):
                pass
            yield event, sequence

    # ---- records
    async def get(self, key: str) -> Record | None:
        await self.faults.reach(f"read {key}")
        return await self._inner.get(key)

    async def put(self, key: str, value: bytes, *, revision: int | None = None) -> int:
        await self.faults.reach(f"write {key}")
        return await self._inner.put(key, value, revision=revision)

    async def keys(self, prefix: str = "") -> list[str]:
        await self.faults.reach(f"list {prefix}")
        return await self._inner.keys(prefix)

    async def records(self, prefix: str) -> AsyncIterator[tuple[str, Record]]:
        async for key, found in self._inner.records(prefix):
            while not await self.faults.waited(1.0):
                pass
            yield key, found

    # ---- life
    async def beat(self, heartbeat: Heartbeat) -> None:
        if not self.faults.is_away:
            await self._inner.beat(heartbeat)

    async def heartbeats(self) -> AsyncIterator[Heartbeat]:
        async for heartbeat in self._inner.heartbeats():
            yield heartbeat

    async def stream_state(self, stream: str) -> StreamState:
        await self.faults.reach(f"look at {stream}")
        return await self._inner.stream_state(stream)

    async def close(self) -> None:
        await self._inner.close()
