"""The bus over NATS JetStream (`shared.bus.port.Bus`); the only modules that know NATS are `shared.bus.nats`."""

import contextlib
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, cast, get_args

import msgspec
from nats.js import api
from nats.js.errors import BadRequestError, NotFoundError

from shared.blobs.port import Blobs
from shared.bus.nats.claims import drop_bodies
from shared.bus.nats.link import ANSWER_S, BUCKET, LOST, Link, is_wrong_sequence
from shared.bus.nats.log import NatsJournalReader, OrderedReader, floor_key, purged_key, read_number, subject_of
from shared.bus.nats.pull import Puller, sequences
from shared.bus.nats.wire import ID_HEADER, Unreadable, seal, unseal, void_of
from shared.bus.nats.work import NatsWorkQueue, excused_keys
from shared.bus.port import ACK_WAIT_S, LOG_STREAMS, MAX_IN_HAND, STREAMS, WORK_STREAMS, Record, StreamState
from shared.errors import Refused
from shared.messages import EVENT_NAMES, DeadLetter, Event, Heartbeat, Kind, Message, decode, encode, event_subject
from shared.runtime.logging import get_logger
from shared.runtime.retry import CONNECT_S, Retry, within

_EXPECTED_HEADER = "Nats-Expected-Last-Subject-Sequence"
_HEARTBEAT_SUBJECT = "heartbeat"
_EVENTS_A_FETCH, _EVENTS_WAIT_S = 64, 5.0


class NatsBus:
    """One process's connection to the bus."""

    def __init__(self, link: Link, blobs: Blobs | None, ack_wait_s: float) -> None:
        self._link, self._blobs, self._ack_wait_s = link, blobs, ack_wait_s

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str = "triune",
        blobs: Blobs | None = None,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        ack_wait_s: float = ACK_WAIT_S,
        connect_limit_s: float = CONNECT_S,
        retry: Retry | None = None,
        stream_bytes: Mapping[str, int] | None = None,
        copies: int = 1,
    ) -> "NatsBus":
        """Connect and set the streams up; `stream_bytes` replaces limits of `shared.bus.nats.link.STREAM_BYTES`.

        `url` may name several servers of a cluster, separated by commas, and each stream has `copies` in it.

        Raises Unavailable when no server answers within `connect_limit_s`, UserError when it refuses us.
        """
        link = await Link.open(
            url,
            limit_s=connect_limit_s,
            retry=retry or Retry(),
            name=name,
            user=user,
            password=password,
            token=token,
        )
        try:
            with within(connect_limit_s):
                await link.set_up(stream_bytes or {}, copies)
        except BaseException:
            await link.close()
            raise
        return cls(link, blobs, ack_wait_s)

    # ---- publish
    async def publish(self, stream: str, job: str, kind: Kind, message: Message, message_id: str) -> int:
        body, headers = await seal(message, job, message_id, self._blobs, self._link.retry)
        return await self._store(f"{stream}.{job}.{kind}", body, headers)

    async def announce(self, event: Event, *, expected_last: int | None = None) -> int:
        body, headers = await seal(event, event.job, uuid.uuid4().hex, self._blobs, self._link.retry)
        return await self._compare_and_store("events", event_subject(event), body, headers, expected_last)

    async def _store(self, subject: str, body: bytes, headers: dict[str, str]) -> int:
        """Publish until it is acknowledged; the id in the headers keeps a repeated one from being stored twice."""
        streams = self._link.streams
        acked = await self._link.call(
            f"publish {subject}",
            lambda: streams.publish(subject, body, headers=dict(headers)),
        )
        return int(acked.seq)

    async def _compare_and_store(
        self, stream: str, subject: str, body: bytes, headers: dict[str, str], expected: int | None
    ) -> int:
        if expected is None:
            return await self._store(subject, body, headers)
        try:
            return await self._store(subject, body, headers | {_EXPECTED_HEADER: str(expected)})
        except BadRequestError as error:
            if not is_wrong_sequence(error):
                raise
            newest = await self._link.last(stream, subject)
            # The server looks at the sequence before the id: our own first try, whose answer was lost, also ends here.
            if newest is not None and (newest.headers or {}).get(ID_HEADER) == headers[ID_HEADER]:
                return int(newest.seq)
            found = newest.seq if newest else 0
            raise Refused(f"{subject} is at sequence {found}, expected {expected}: another instance wrote it") from None

    # ---- work
    async def work(self, stream: str, job: str, kind: Kind) -> NatsWorkQueue:
        consumer = f"{job}-{kind}"
        config = api.ConsumerConfig(
            durable_name=consumer,
            filter_subject=f"{stream}.{job}.{kind}",
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait_s,
            max_deliver=-1,
            max_ack_pending=MAX_IN_HAND,
        )
        await self._link.call(f"work on {stream}", lambda: self._link.streams.add_consumer(stream, config))
        puller = Puller(self._link, stream, consumer, ack_wait_s=self._ack_wait_s)
        return NatsWorkQueue(self._link, puller, self._blobs, self._give_up, self._ack_wait_s)

    async def _give_up(self, raw: Any, error: Unreadable) -> None:
        """Void the group of a work message that nobody can read, and put the message on record."""
        stream, job, kind = raw.subject.split(".")
        sequence, _, deliveries = sequences(raw)
        void = void_of(raw, error)
        if void is not None:
            await self.publish("scored", void.job, void.kind, void, raw.headers[ID_HEADER])
        letter = DeadLetter(
            job=job,
            subject=raw.subject,
            ordinal=void.ordinal if void else -1,
            deliveries=deliveries,
            reason=str(error),
            service="bus",
        )
        await self.publish("dead", job, kind, letter, f"unreadable/{stream}/{sequence}")

    async def waiting(self, stream: str, job: str, kind: Kind) -> tuple[int, int]:
        subject = f"{stream}.{job}.{kind}"
        try:
            info = await self._link.call(
                f"count {subject}", lambda: self._link.streams.consumer_info(stream, f"{job}-{kind}")
            )
        except NotFoundError:
            return (await self._link.subjects(stream, subject)).get(subject, 0), 0
        return info.num_pending or 0, info.num_ack_pending or 0

    async def stored(self, stream: str, job: str, kind: Kind) -> int:
        subject = f"{stream}.{job}.{kind}"
        return (await self._link.subjects(stream, subject)).get(subject, 0)

    async def erase_job(self, job: str) -> None:
        await self.forget_job(job)
        own = [(stream, f"{stream}.{job}.>") for stream in STREAMS]
        own += [(f"KV_{BUCKET}", f"$KV.{BUCKET}.{key}") for key in (f"ordinal.{job}", f"journal.{job}.>")]
        for stream, subject in own:
            await self._link.call(f"purge {subject}", partial(self._link.streams.purge_stream, stream, subject=subject))

    async def dead_letters(self, job: str, limit: int) -> Sequence[DeadLetter]:
        subject, kept = f"dead.{job}.*", deque[DeadLetter](maxlen=limit)
        reader = OrderedReader(self._link, "dead", subject, 1)
        try:
            while (newest := await self._link.last("dead", subject)) is not None and reader.next <= newest.seq:
                for raw in await reader.fetch(_EVENTS_A_FETCH, ANSWER_S):
                    sequence, _, _ = sequences(raw)
                    reader.advance(sequence)
                    try:
                        kept.append(cast(DeadLetter, await unseal(raw, self._blobs, self._link.retry)))
                    except Unreadable as error:
                        get_logger().error("a dead letter cannot be read", sequence=sequence, error=str(error))
        finally:
            await reader.close()
        return list(kept)

    async def forget_job(self, job: str) -> None:
        for stream in WORK_STREAMS:
            for kind in get_args(Kind):
                await self.purge(stream, job, kind)
                await self._delete_consumer(stream, f"{job}-{kind}")
            await self._forget_excuses(stream, job)

    async def _forget_excuses(self, stream: str, job: str) -> None:
        streams, subject = self._link.streams, excused_keys(stream, job)
        await self._link.call(f"forget {job}", lambda: streams.purge_stream(f"KV_{BUCKET}", subject=subject))

    async def _delete_consumer(self, stream: str, consumer: str) -> None:
        try:
            await self._link.call(
                f"delete consumer {consumer}", lambda: self._link.streams.delete_consumer(stream, consumer)
            )
        except NotFoundError:
            return

    # ---- log
    async def read_journal(
        self, job: str, kind: Kind, *, start: int | None = None, durable: str | None = None
    ) -> NatsJournalReader:
        if start is None:
            start = 1 if durable is None else await self.floor("scored", job, kind, durable) + 1
        return await self._read_log("scored", job, [kind], start, durable and floor_key("scored", job, kind, durable))

    async def read_events(self, job: str, *names: str, start: int = 1, durable: str | None = None) -> NatsJournalReader:
        floor = durable and floor_key("events", job, "*", durable)
        return await self._read_log("events", job, names or tuple(EVENT_NAMES.values()), start, floor)

    async def _read_log(
        self, stream: str, job: str, names: Sequence[str], start: int, floor: str | None
    ) -> NatsJournalReader:
        reader = NatsJournalReader(self._link, stream, job, names, start, self._blobs, floor or "")
        await reader.open()
        return reader

    async def last_sequence(self, stream: str, job: str, name: str) -> int:
        found = await self._link.last(stream, f"{stream}.{job}.{name}")
        return int(found.seq) if found else 0

    async def floor(self, stream: str, job: str, name: str, durable: str) -> int:
        return await read_number(self._link, floor_key(stream, job, name, durable))

    async def purge(self, stream: str, job: str, name: str, *, below: int | None = None) -> None:
        if below is not None and below <= 1:
            return  # sequences begin at 1; the server reads a bound of 0 as none, and would remove everything
        subject = f"{stream}.{job}.{name}"
        if stream in LOG_STREAMS:
            await self._note_purge(stream, job, name, below)
        if stream == "scored" and job in self._link.claimed and self._blobs is not None:
            await drop_bodies(self._link, stream, subject, below, self._blobs.of(job))
        await self._link.call(
            f"purge {subject}", lambda: self._link.streams.purge_stream(stream, seq=below, subject=subject)
        )

    async def _note_purge(self, stream: str, job: str, name: str, below: int | None) -> None:
        """Put the purge on record before it happens: a reader that is behind must hear of it."""
        end = below if below is not None else (await self.stream_state(stream)).last_sequence + 1
        key = purged_key(stream, job, name)
        if end > await read_number(self._link, key):
            await self.put(key, str(end).encode())

    # ---- events
    async def last_event(self, job: str, name: str) -> tuple[Event, int] | None:
        found = await self._link.last("events", f"events.{job}.{name}")
        if found is None:
            return None
        return cast(Event, await unseal(found, self._blobs, self._link.retry)), int(found.seq)

    async def events(self, job: str, *names: str, after: int = 0) -> AsyncIterator[tuple[Event, int]]:
        reader = OrderedReader(self._link, "events", subject_of("events", job, names), after + 1, names)
        try:
            while True:
                for raw in await reader.fetch(_EVENTS_A_FETCH, _EVENTS_WAIT_S):
                    sequence, _, _ = sequences(raw)
                    reader.advance(sequence)
                    try:
                        event = cast(Event, await unseal(raw, self._blobs, self._link.retry))
                    except Unreadable as error:
                        get_logger().error("an event cannot be read", sequence=sequence, error=str(error))
                        continue
                    yield event, sequence
        finally:
            await reader.close()

    # ---- records
    async def get(self, key: str) -> Record | None:
        found = await self._link.last(f"KV_{BUCKET}", f"$KV.{BUCKET}.{key}")
        return None if found is None else Record(found.data or b"", int(found.seq))

    async def put(self, key: str, value: bytes, *, revision: int | None = None) -> int:
        headers = {ID_HEADER: uuid.uuid4().hex}
        return await self._compare_and_store(f"KV_{BUCKET}", f"$KV.{BUCKET}.{key}", value, headers, revision)

    async def keys(self, prefix: str = "") -> list[str]:
        found = await self._link.subjects(f"KV_{BUCKET}", f"$KV.{BUCKET}.>")
        keys = (subject.removeprefix(f"$KV.{BUCKET}.") for subject in found)
        return sorted(key for key in keys if key.startswith(prefix))

    async def records(self, prefix: str) -> AsyncIterator[tuple[str, Record]]:
        bucket = f"$KV.{BUCKET}."
        reader = OrderedReader(self._link, f"KV_{BUCKET}", f"{bucket}{prefix}>", 1)
        try:
            while True:
                for raw in await reader.fetch(_EVENTS_A_FETCH, _EVENTS_WAIT_S):
                    sequence, _, _ = sequences(raw)
                    reader.advance(sequence)
                    yield raw.subject.removeprefix(bucket), Record(raw.data or b"", sequence)
        finally:
            await reader.close()

    # ---- life
    async def beat(self, heartbeat: Heartbeat) -> None:
        if not self._link.client.is_connected:
            return  # an old heartbeat tells nothing
        try:
            await self._link.client.publish(_HEARTBEAT_SUBJECT, encode(heartbeat))
        except LOST as error:
            get_logger().debug("a heartbeat was lost", error=repr(error))

    async def heartbeats(self) -> AsyncIterator[Heartbeat]:
        subscription = await self._link.client.subscribe(_HEARTBEAT_SUBJECT)
        try:
            async for raw in subscription.messages:
                try:
                    found = decode(raw.data)
                except (msgspec.MsgspecError, ValueError) as error:
                    get_logger().warning("a heartbeat cannot be read", error=str(error))
                    continue
                if isinstance(found, Heartbeat):
                    yield found
        finally:
            if not self._link.client.is_closed:
                with contextlib.suppress(*LOST):
                    await subscription.unsubscribe()

    async def stream_state(self, stream: str) -> StreamState:
        info = await self._link.call(f"look at {stream}", lambda: self._link.streams.stream_info(stream))
        return StreamState(
            first_sequence=info.state.first_seq,
            last_sequence=info.state.last_seq,
            messages=info.state.messages,
            bytes=info.state.bytes,
            max_bytes=info.config.max_bytes,
            created=info.created.isoformat(),
        )

    async def close(self) -> None:
        await self._link.close()
