"""Work queues over JetStream: deliveries, and what becomes of a message that nobody can read."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from shared.blobs.port import Blobs
from shared.bus.nats.claims import ack_claimed, is_done
from shared.bus.nats.link import ANSWER_S, BUCKET, LOST, Link
from shared.bus.nats.pull import Puller, sequences
from shared.bus.nats.wire import Unreadable, claim_of, trace_of, unseal
from shared.errors import Unavailable
from shared.messages import AnyMessage
from shared.runtime.logging import get_logger
from shared.runtime.retry import kept_alive, within

GiveUp = Callable[[Any, Unreadable], Awaitable[None]]
_KEPT_SHARE = 0.6
"""Who has kept a message alive within this share of the ack wait is still at work on it."""


class NatsDelivery:
    """One message in hand (`shared.bus.port.Delivery`).

    Its answers are sent and not waited for: one that is lost means a second delivery, which the ids make harmless. Only
    where the body lies in the blob store is the ack confirmed: then the body goes, too.
    """

    message: AnyMessage

    def __init__(self, link: Link, raw: Any, excused: int, blobs: Blobs | None) -> None:
        self._link, self.raw, self._excused, self._blobs = link, raw, excused, blobs
        self._kept_at = time.monotonic()
        self.subject: str = raw.subject
        self.sequence, _, self.deliveries = sequences(raw)

    @property
    def attempts(self) -> int:
        return self.deliveries - self._excused

    def was_kept(self, within_s: float) -> bool:
        """Whether somebody here is still at work on it."""
        return time.monotonic() < self._kept_at + within_s

    @property
    def trace(self) -> Mapping[str, str]:
        return trace_of(self.raw)

    async def ack(self) -> None:
        self._kept_at = -math.inf
        ref = claim_of(self.raw)
        if ref is None or self._blobs is None:
            await answer(self._link, self.raw, b"+ACK")
        else:
            _, job, _ = self.subject.split(".")
            await ack_claimed(self._link, self.raw, self._blobs.of(job), ref)

    async def keep(self) -> None:
        self._kept_at = time.monotonic()
        await answer(self._link, self.raw, b"+WPI")

    async def hand_back(self, delay_s: float = 0.0, *, counts: bool = False) -> None:
        self._kept_at = -math.inf
        if not counts:
            await self.excuse()
        await hand_back(self._link, self.raw, delay_s)

    async def excuse(self) -> None:
        """Put on record that this delivery is no attempt: nobody's work died."""
        self._excused += 1
        with contextlib.suppress(Unavailable), within(ANSWER_S):  # else it counts, as a death at this moment would
            await self._link.call(
                f"excuse a delivery of {self.subject}",
                lambda: self._link.streams.publish(excused_key(self.raw), str(self._excused).encode()),
            )

    async def renew(self, raw: Any) -> None:
        """It was delivered to us once more while we were at work on it: the server had not heard of us."""
        self.raw = raw
        _, _, self.deliveries = sequences(raw)
        await self.excuse()


async def answer(link: Link, raw: Any, word: bytes) -> None:
    """Send one of JetStream's acknowledgements; lost while the server is away."""
    with contextlib.suppress(*LOST):
        await link.client.publish(raw.reply, word)


async def hand_back(link: Link, raw: Any, delay_s: float) -> None:
    """Offer the message again after `delay_s` seconds."""
    wish = b" " + json.dumps({"delay": int(delay_s * 1e9)}).encode() if delay_s > 0 else b""
    await answer(link, raw, b"-NAK" + wish)


def excused_key(raw: Any) -> str:
    """Subject of the record of how many deliveries of a message were no attempts."""
    sequence, _, _ = sequences(raw)
    return f"$KV.{BUCKET}.excused.{raw.subject}.{sequence}"


def excused_keys(stream: str, job: str) -> str:
    """The subjects of all such records of a job's messages in a stream."""
    return f"$KV.{BUCKET}.excused.{stream}.{job}.>"


class NatsWorkQueue:
    """A durable consumer of one subject (`shared.bus.port.WorkQueue`); one `fetch` at a time."""

    def __init__(self, link: Link, puller: Puller, blobs: Blobs | None, give_up: GiveUp, ack_wait_s: float) -> None:
        self._link, self._puller, self._blobs, self._give_up = link, puller, blobs, give_up
        self._kept_s = _KEPT_SHARE * ack_wait_s
        self._out: WeakValueDictionary[int, NatsDelivery] = WeakValueDictionary()

    async def fetch(self, max_messages: int, wait_s: float) -> Sequence[NatsDelivery]:
        until = time.monotonic() + wait_s
        while True:
            raws = await self._pull(max_messages, max(until - time.monotonic(), 0.0))
            new = [delivery for raw in raws if (delivery := await self._receive(raw)) is not None]
            deliveries = await self._open_all(new)
            if deliveries or time.monotonic() >= until:
                return deliveries

    async def _pull(self, limit: int, wait_s: float) -> list[Any]:
        try:
            return await self._puller.pull(limit, wait_s)
        except asyncio.CancelledError:
            for raw in await self._puller.close():  # what arrived just now is somebody else's at once
                await hand_back(self._link, raw, 0.0)
            raise

    async def _receive(self, raw: Any) -> NatsDelivery | None:
        """The delivery with its attempts counted; None for one that is in hand here already."""
        sequence, _, deliveries = sequences(raw)
        excused = 0
        if deliveries > 1:
            held = self._out.get(sequence)
            if held is not None and held.was_kept(self._kept_s):
                await held.renew(raw)
                return None
            found = await self._link.last(f"KV_{BUCKET}", excused_key(raw))
            excused = int(found.data) if found and found.data else 0
        delivery = self._out[sequence] = NatsDelivery(self._link, raw, excused, self._blobs)
        return delivery

    async def _open_all(self, deliveries: list[NatsDelivery]) -> list[NatsDelivery]:
        """Those that can be read, kept alive while their bodies are fetched."""
        async with contextlib.AsyncExitStack() as stack:
            if any(claim_of(delivery.raw) for delivery in deliveries):
                for delivery in deliveries:
                    await stack.enter_async_context(kept_alive(delivery))
            opened = await asyncio.gather(*map(self._open, deliveries))
        return [delivery for delivery, is_open in zip(deliveries, opened, strict=True) if is_open]

    async def _open(self, delivery: NatsDelivery) -> bool:
        raw = delivery.raw
        try:
            delivery.message = await unseal(raw, self._blobs, self._link.retry)
        except Unreadable as error:
            if claim_of(raw) and await is_done(self._link, raw):
                return False  # its body went while we waited for it: another replica has finished it
            get_logger().error("a message was given up", subject=raw.subject, error=str(error))
            await self._give_up(raw, error)
            await answer(self._link, raw, b"+TERM")
            return False
        return True
