"""Reading a stream in order from a sequence without ever skipping a message: the journal and the events."""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from typing import Any

from nats.js import api
from nats.js.errors import NotFoundError

from shared.blobs.port import Blobs
from shared.bus.nats.link import ANSWER_S, BUCKET, LOST, Link
from shared.bus.nats.pull import Puller, sequences
from shared.bus.nats.wire import Unreadable, claim_of, trace_of, unseal_with_body, void_of
from shared.bus.port import JournalEntry
from shared.errors import Corrupt, Unavailable
from shared.messages import AnyMessage
from shared.runtime.logging import get_logger

_FORGET_S = 3600.0
"""The server removes the consumer of a reader that was silent for so long; the reader makes another."""
_LOOK_S = 1.0
"""A reader that gets nothing looks this often whether its consumer still stands where it does itself."""
_AWAY_S = 0.2
"""Pause after a try that found the server away."""


class OrderedReader:
    """Messages of a stream under `subject`, which may end in a wildcard, from sequence `start` on.

    `names`: the last parts of the subjects that are wanted; none: all. They are chosen here: a consumer that filters by
    several subjects skips what it has not delivered of the others when one of them is purged (nats-server 2.12.8).

    The consumer is file-backed and numbers what it delivers; when a number is missing (a cut connection, a restart of
    the server), or more was delivered than arrived, reading goes on with a new consumer at the first message that did
    not arrive.
    """

    def __init__(
        self,
        link: Link,
        stream: str,
        subject: str,
        start: int,
        names: Sequence[str] = (),
        *,
        headers_only: bool = False,
    ) -> None:
        self._link, self._stream, self._subject, self._names = link, stream, subject, frozenset(names)
        self._headers_only = headers_only
        self.next = start
        self._name = ""
        self._puller: Puller | None = None
        self._delivered = 0  # by the present consumer
        self._looked_at = -math.inf

    async def fetch(self, limit: int, wait_s: float) -> list[Any]:
        """At most `limit` messages as soon as there is one; none after `wait_s`. Call `advance` past each one used."""
        until = time.monotonic() + wait_s
        while True:
            left = max(until - time.monotonic(), 0.0)
            found = await self._whole(await self._pull(limit, left))
            wanted = [raw for raw in found if not self._names or name_of(raw) in self._names]
            if found and not wanted:
                self.advance(sequences(found[-1])[0])
            if wanted or left <= 0:
                return wanted

    def advance(self, sequence: int) -> None:
        """The message of that sequence is used: reading goes on behind it, whatever happens."""
        self.next = sequence + 1

    async def _pull(self, limit: int, wait_s: float) -> list[Any]:
        try:
            puller = self._puller or await self.open(max(wait_s, ANSWER_S))
            found = await puller.pull(limit, wait_s)
            if not found and time.monotonic() > self._looked_at + _LOOK_S and not await self._stands_where_we_do():
                await self.close()
        except Unavailable:
            if self._link.client.is_closed:
                raise
            await asyncio.sleep(min(wait_s, _AWAY_S))
            return []  # the server is away, which is waited for
        return found

    async def _whole(self, raws: list[Any]) -> list[Any]:
        """The messages up to the first missing number; behind it, reading starts again."""
        for place, raw in enumerate(raws):
            _, number, _ = sequences(raw)
            if number != self._delivered + 1:
                get_logger().warning("messages were lost on the way, reading again", stream=self._stream)
                await self.close()
                return raws[:place]
            self._delivered = number
        return raws

    async def open(self, limit_s: float | None) -> Puller:
        """Make the consumer; raises Corrupt when the stream ends before the first wanted message."""
        streams, name = self._link.streams, self._link.client.new_inbox().rsplit(".", 1)[-1]
        info = await self._link.call(f"look at {self._stream}", lambda: streams.stream_info(self._stream), limit_s)
        if self.next > info.state.last_seq + 1:
            raise Corrupt(
                f"stream {self._stream} ends at sequence {info.state.last_seq}, expected at least {self.next - 1}: "
                f"it was lost or recreated"
            )
        config = api.ConsumerConfig(
            name=name,
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self.next,
            ack_policy=api.AckPolicy.NONE,
            filter_subject=self._subject,
            headers_only=self._headers_only,
            inactive_threshold=_FORGET_S,
            mem_storage=False,
        )
        await self._link.call(f"read {self._stream}", lambda: streams.add_consumer(self._stream, config), limit_s)
        self._name, self._delivered = name, 0
        self._puller = Puller(self._link, self._stream, name)
        return self._puller

    async def _stands_where_we_do(self) -> bool:
        """Whether the consumer is still there, and has delivered nothing that did not arrive, by a cut connection."""
        streams, self._looked_at = self._link.streams, time.monotonic()
        try:
            info = await self._link.call(
                f"look at {self._name}", lambda: streams.consumer_info(self._stream, self._name), ANSWER_S
            )
        except NotFoundError:
            return False
        return info.delivered is None or (info.delivered.consumer_seq or 0) <= self._delivered

    async def close(self) -> None:
        """Forget the consumer, here and (when it answers) at the server."""
        puller, self._puller = self._puller, None
        if puller is None or self._link.client.is_closed:
            return
        await puller.close()
        with contextlib.suppress(TimeoutError, *LOST):
            if self._link.client.is_connected:
                await self._link.streams.delete_consumer(self._stream, self._name)


def name_of(message: Any) -> str:
    """The last part of its subject."""
    return str(message.subject).rpartition(".")[2]


def subject_of(stream: str, job: str, names: Sequence[str]) -> str:
    """What a reader of these parts of a job's log asks for."""
    return f"{stream}.{job}.{names[0] if len(names) == 1 else '*'}"


def purged_key(stream: str, job: str, name: str) -> str:
    """Record of the sequence below which `<stream>.<job>.<name>` was purged."""
    return f"journal.{job}.{stream}.{name}.purged"


def floor_key(stream: str, job: str, name: str, durable: str) -> str:
    """Record of the sequence up to which a durable reader has acked."""
    return f"journal.{job}.{stream}.{'all' if name == '*' else name}.floor.{durable}"


async def read_number(link: Link, key: str) -> int:
    """The number in a record; 0 when there is none."""
    found = await link.last(f"KV_{BUCKET}", f"$KV.{BUCKET}.{key}")
    return int(found.data) if found and found.data else 0


class NatsJournalReader:
    """Reads a part of a job's log in order (`shared.bus.port.JournalReader`).

    JetStream skips silently over what was purged, so every purge is on record, and looked up where sequences
    are missing in what was fetched. `names` are those whose purges matter; `floor` is the record that `ack` writes.
    """

    def __init__(
        self, link: Link, stream: str, job: str, names: Sequence[str], start: int, blobs: Blobs | None, floor: str
    ) -> None:
        self._link, self._stream, self._job, self._names = link, stream, job, tuple(names)
        self._blobs, self._floor = blobs, floor
        self._reader = OrderedReader(link, stream, subject_of(stream, job, self._names), start, self._names)

    async def open(self) -> None:
        """Check that nothing from the start on is missing, as far as the stream can tell."""
        await self._check_purges()
        await self._check_first()
        await self._reader.open(None)

    @property
    def position(self) -> int:
        return self._reader.next - 1

    async def fetch(self, max_messages: int, wait_s: float) -> Sequence[JournalEntry]:
        raws = await self._reader.fetch(max_messages, wait_s)
        if not raws:
            return []
        found = [sequence for sequence, _, _ in map(sequences, raws)]
        if found != list(range(self._reader.next, found[-1] + 1)):
            await self._check_purges()
        entries = await self._entries(raws)
        self._reader.advance(found[-1])
        return entries

    async def _entries(self, raws: Sequence[Any]) -> list[JournalEntry]:
        entries: list[JournalEntry] = []
        for raw in raws:
            sequence, _, _ = sequences(raw)
            record, body = await self._record(raw, sequence)
            if record is not None:
                entries.append(JournalEntry(sequence, record, trace_of(raw), body))
        return entries

    async def ack(self, sequence: int) -> None:
        if self._floor:
            subject = f"$KV.{BUCKET}.{self._floor}"
            await self._link.call(
                f"ack the log of {self._job}",
                lambda: self._link.streams.publish(subject, str(sequence).encode()),
            )

    async def close(self) -> None:
        await self._reader.close()

    async def _record(self, raw: Any, sequence: int) -> tuple[AnyMessage | None, bytes]:
        """The record with its bytes; in place of one that cannot be read its void, None when it is no group's."""
        if claim_of(raw) is not None:
            self._link.claimed.add(self._job)
        try:
            return await unseal_with_body(raw, self._blobs, self._link.retry)
        except Unreadable as error:
            get_logger().error("a record of the log cannot be read", sequence=sequence, error=str(error))
            return void_of(raw, error), b""

    async def _check_purges(self) -> None:
        keys = [purged_key(self._stream, self._job, name) for name in self._names]
        for name, purged in zip(
            self._names, await asyncio.gather(*(read_number(self._link, key) for key in keys)), strict=True
        ):
            if self._reader.next < purged:
                raise Corrupt(
                    f"the log {self._stream}.{self._job}.{name} was purged below sequence {purged}, "
                    f"expected it from {self._reader.next}"
                )

    async def _check_first(self) -> None:
        """A start whose message is gone, though no purge on record explains it, is a foreign hand's doing."""
        start, stream = self._reader.next, self._stream
        info = await self._link.call(f"ask for stream {stream}", lambda: self._link.streams.stream_info(stream))
        if start == 1 or start >= info.state.first_seq:
            return
        keys = await self._link.subjects(f"KV_{BUCKET}", f"$KV.{BUCKET}.{purged_key(stream, '*', '*')}")
        purges = [await read_number(self._link, key.removeprefix(f"$KV.{BUCKET}.")) for key in keys]
        if max(purges, default=0) < info.state.first_seq:
            raise Corrupt(
                f"the log starts at sequence {info.state.first_seq}, expected {start} of "
                f"{stream}.{self._job}: it was purged behind our back"
            )
