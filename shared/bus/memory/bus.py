"""The bus in memory (`shared.bus.port.Bus`): the same promises as `shared.bus.nats.bus`.

One `MemoryServer` is what the servers hold; every service gets its own `MemoryBus` on it. The contract tests
(`tests/shared/test_bus.py`) run on both adapters. All handles of a server live in one event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast, get_args

from opentelemetry import propagate

from shared.bus.memory.log import MemoryJournalReader
from shared.bus.memory.server import MemoryServer
from shared.bus.memory.streams import MemoryConsumer
from shared.bus.memory.work import MemoryWorkQueue
from shared.bus.port import WORK_STREAMS, Record, StreamState
from shared.errors import Corrupt, Refused, Unavailable
from shared.messages import (
    EVENT_NAMES,
    DeadLetter,
    Event,
    Heartbeat,
    Kind,
    Message,
    decode,
    encode,
    event_subject,
)
from shared.runtime.retry import time_left

_HEARTBEATS_KEPT = 1000


class MemoryBus:
    """One service's handle on a `MemoryServer` (`shared.bus.port.Bus`)."""

    def __init__(self, server: MemoryServer | None = None) -> None:
        self.server = server or MemoryServer()
        self.server.set_up()

    # ---- publish
    async def publish(self, stream: str, job: str, kind: Kind, message: Message, message_id: str) -> int:
        server, target = self.server, self.server.streams[stream]
        body = encode(message)
        while target.is_full(len(body)) and target.known(message_id) is None:
            left = time_left()
            if left == 0.0:
                raise Unavailable(f"stream {stream} is full: it holds {target.bytes} of {target.max_bytes} bytes")
            await server.wait_change(60.0 if left is None else left)
        sequence = target.append(f"{stream}.{job}.{kind}", body, message_id, _trace())
        server.changed()
        return sequence

    async def announce(self, event: Event, *, expected_last: int | None = None) -> int:
        target, subject = self.server.streams["events"], event_subject(event)
        newest = target.last(subject)
        sequence = newest.sequence if newest else 0
        if expected_last is not None and sequence != expected_last:
            raise Refused(f"{subject} is at sequence {sequence}, expected {expected_last}: another instance wrote it")
        sequence = target.append(subject, encode(event), None, _trace())
        self.server.changed()
        return sequence

    # ---- work
    async def work(self, stream: str, job: str, kind: Kind) -> MemoryWorkQueue:
        subject = f"{stream}.{job}.{kind}"
        server = self.server
        server.consumers.setdefault(subject, MemoryConsumer(server.streams[stream], subject, server.max_in_hand))
        return MemoryWorkQueue(self.server, subject)

    async def waiting(self, stream: str, job: str, kind: Kind) -> tuple[int, int]:
        subject = f"{stream}.{job}.{kind}"
        stored = self.server.streams[stream].count(subject)
        consumer = self.server.consumers.get(subject)
        in_hand = len(consumer.due) if consumer else 0
        return stored - in_hand, in_hand

    async def stored(self, stream: str, job: str, kind: Kind) -> int:
        return self.server.streams[stream].count(f"{stream}.{job}.{kind}")

    async def erase_job(self, job: str) -> None:
        await self.forget_job(job)
        for stream in self.server.streams.values():
            for subject in {stored.subject for stored in stream.entries.values()}:
                if subject.startswith(f"{stream.name}.{job}."):
                    stream.purge(subject, None)
        for key in [key for key in self.server.records if key == f"ordinal.{job}" or key.startswith(f"journal.{job}.")]:
            del self.server.records[key]
        self.server.changed()

    async def dead_letters(self, job: str, limit: int) -> Sequence[DeadLetter]:
        entries = self.server.streams["dead"].entries.values()
        found = [stored for stored in entries if stored.subject.startswith(f"dead.{job}.")]
        return [cast(DeadLetter, decode(stored.body)) for stored in found[-limit:]]

    async def forget_job(self, job: str) -> None:
        for stream in WORK_STREAMS:
            for kind in get_args(Kind):
                await self.purge(stream, job, kind)
                self.server.consumers.pop(f"{stream}.{job}.{kind}", None)

    # ---- log
    async def read_journal(
        self, job: str, kind: Kind, *, start: int | None = None, durable: str | None = None
    ) -> MemoryJournalReader:
        subject = f"scored.{job}.{kind}"
        if start is None:
            start = 1 if durable is None else self.server.floors.get((subject, durable), 0) + 1
        return self._read_log("scored", [subject], start, (subject, durable) if durable else None)

    async def read_events(
        self, job: str, *names: str, start: int = 1, durable: str | None = None
    ) -> MemoryJournalReader:
        subjects = [f"events.{job}.{name}" for name in names or EVENT_NAMES.values()]
        return self._read_log("events", subjects, start, (f"events.{job}.*", durable) if durable else None)

    def _read_log(
        self, name: str, subjects: Sequence[str], start: int, floor: tuple[str, str] | None
    ) -> MemoryJournalReader:
        stream = self.server.streams[name]
        if start > stream.last_sequence + 1:
            raise Corrupt(
                f"stream {name} ends at sequence {stream.last_sequence}, expected at least {start - 1}: "
                f"it was lost or recreated"
            )
        for subject in subjects:
            stream.check_start(subject, start)
        return MemoryJournalReader(self.server, name, subjects, start, floor)

    async def last_sequence(self, stream: str, job: str, name: str) -> int:
        subject = f"{stream}.{job}.{name}"
        found = self.server.streams[stream].last(subject)
        return found.sequence if found else 0

    async def floor(self, stream: str, job: str, name: str, durable: str) -> int:
        return self.server.floors.get((f"{stream}.{job}.{name}", durable), 0)

    async def purge(self, stream: str, job: str, name: str, *, below: int | None = None) -> None:
        subject = f"{stream}.{job}.{name}"
        gone = self.server.streams[stream].purge(subject, below)
        consumer = self.server.consumers.get(subject)
        if consumer:
            consumer.drop(gone)
        self.server.changed()

    # ---- events
    async def last_event(self, job: str, name: str) -> tuple[Event, int] | None:
        stored = self.server.streams["events"].last(f"events.{job}.{name}")
        return (cast(Event, decode(stored.body)), stored.sequence) if stored else None

    async def events(self, job: str, *names: str, after: int = 0) -> AsyncIterator[tuple[Event, int]]:
        wanted = {f"events.{job}.{name}" for name in names}
        stream = self.server.streams["events"]
        while True:
            found = stream.after(
                after, lambda subject: subject in wanted if wanted else subject.startswith(f"events.{job}."), 1
            )
            for stored in found:
                after = stored.sequence
                yield cast(Event, decode(stored.body)), stored.sequence
            if not found:
                await self.server.wait_change(60.0)

    # ---- records
    async def get(self, key: str) -> Record | None:
        return self._bucket.get(key)

    async def put(self, key: str, value: bytes, *, revision: int | None = None) -> int:
        server, newest = self.server, self._bucket.get(key)
        found = newest.revision if newest else 0
        if revision is not None and revision != found:
            raise Refused(f"record {key!r} is at revision {found}, expected {revision}: another instance wrote it")
        server.revision += 1
        server.records[key] = Record(value, server.revision)
        server.changed()
        return server.revision

    async def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self._bucket if key.startswith(prefix))

    @property
    def _bucket(self) -> dict[str, Record]:
        if not self.server.streams:
            raise Corrupt("the bucket of records is gone: the server in memory has lost its data")
        return self.server.records

    async def records(self, prefix: str) -> AsyncIterator[tuple[str, Record]]:
        after = 0
        while True:
            matching = [(found.revision, key) for key, found in self.server.records.items() if key.startswith(prefix)]
            revision, key = min((one for one in matching if one[0] > after), default=(0, ""))
            if not key:
                await self.server.wait_change(60.0)
                continue
            after = revision
            yield key, self.server.records[key]

    # ---- life
    async def beat(self, heartbeat: Heartbeat) -> None:
        for queue in self.server.listeners:
            if not queue.full():  # core NATS drops what a slow listener does not take; so does this
                queue.put_nowait(heartbeat)

    async def heartbeats(self) -> AsyncIterator[Heartbeat]:
        queue: asyncio.Queue[Heartbeat] = asyncio.Queue(_HEARTBEATS_KEPT)
        self.server.listeners.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.server.listeners.remove(queue)

    async def stream_state(self, stream: str) -> StreamState:
        return self.server.streams[stream].state()

    async def close(self) -> None:
        return


def _trace() -> dict[str, str]:
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
