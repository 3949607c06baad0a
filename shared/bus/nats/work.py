"""Work queues over JetStream: deliveries, and what becomes of a message that nobody can read."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from shared.blobs.port import Blobs
from shared.bus.nats.link import LOST, Link
from shared.bus.nats.pull import Puller, sequences
from shared.bus.nats.wire import Unreadable, trace_of, unseal
from shared.errors import Unavailable
from shared.messages import AnyMessage
from shared.runtime.logging import get_logger

GiveUp = Callable[[Any, Unreadable], Awaitable[None]]
_STORE_AWAY_S = 1.0
"""A message whose body cannot be fetched now is offered again so much later."""


class NatsDelivery:
    """One message in hand (`shared.bus.port.Delivery`).

    Its answers are sent and not waited for: one that is lost means a second delivery, which the ids make harmless.
    """

    def __init__(self, link: Link, raw: Any, message: AnyMessage) -> None:
        self._link, self._raw = link, raw
        self.message = message
        self.subject: str = raw.subject
        self.sequence, _, self.deliveries = sequences(raw)

    @property
    def trace(self) -> Mapping[str, str]:
        return trace_of(self._raw)

    async def ack(self) -> None:
        await answer(self._link, self._raw, b"+ACK")

    async def keep(self) -> None:
        await answer(self._link, self._raw, b"+WPI")

    async def hand_back(self, delay_s: float = 0.0) -> None:
        await hand_back(self._link, self._raw, delay_s)


async def answer(link: Link, raw: Any, word: bytes) -> None:
    """Send one of JetStream's acknowledgements; lost while the server is away."""
    with contextlib.suppress(*LOST):
        await link.client.publish(raw.reply, word)


async def hand_back(link: Link, raw: Any, delay_s: float) -> None:
    """Offer the message again after `delay_s` seconds."""
    wish = b" " + json.dumps({"delay": int(delay_s * 1e9)}).encode() if delay_s > 0 else b""
    await answer(link, raw, b"-NAK" + wish)


class NatsWorkQueue:
    """A durable consumer of one subject (`shared.bus.port.WorkQueue`); one `fetch` at a time."""

    def __init__(self, link: Link, puller: Puller, blobs: Blobs | None, give_up: GiveUp) -> None:
        self._link, self._puller, self._blobs, self._give_up = link, puller, blobs, give_up

    async def fetch(self, max_messages: int, wait_s: float) -> Sequence[NatsDelivery]:
        until = time.monotonic() + wait_s
        while True:
            raws = await self._pull(max_messages, max(until - time.monotonic(), 0.0))
            opened = [await self._open(raw) for raw in raws]
            deliveries = [delivery for delivery in opened if delivery is not None]
            if deliveries or time.monotonic() >= until:
                return deliveries

    async def _pull(self, limit: int, wait_s: float) -> list[Any]:
        try:
            return await self._puller.pull(limit, wait_s)
        except asyncio.CancelledError:
            for raw in await self._puller.close():  # what arrived just now is somebody else's at once
                await hand_back(self._link, raw, 0.0)
            raise

    async def _open(self, raw: Any) -> NatsDelivery | None:
        try:
            return NatsDelivery(self._link, raw, await unseal(raw, self._blobs))
        except Unreadable as error:
            get_logger().error("a message was given up", subject=raw.subject, error=str(error))
            await self._give_up(raw, error)
            await answer(self._link, raw, b"+TERM")
        except Unavailable as error:
            get_logger().warning("a message waits for its body", subject=raw.subject, error=str(error))
            await hand_back(self._link, raw, _STORE_AWAY_S)
        return None
