"""Pulling from a JetStream consumer: what is there at once, else the first message that comes.

nats-py's own `fetch(n)` waits until n messages came or the time is up; here a message is in hand within a millisecond.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from typing import Any

from shared.bus.nats.link import LOST, Link
from shared.errors import Unavailable

FETCH_BYTES = 16 * 1024 * 1024
"""A larger answer may get a slow client cut off by the server."""
_LINGER_S = 1.0
"""A request waits so long at the server, then it is sent anew."""
_GRACE_S = 0.5
_PAUSE_S = 0.05
_NO_MESSAGES, _CONFLICT, _NO_RESPONDERS = "404", "409", "503"
_FULL = ("batch completed", "message size exceeds maxbytes")
"""Conflicts that are none: the request has all that it may."""


class Puller:
    """Requests messages of one consumer.

    Of a work queue (`ack_wait_s`), by one request at a time, nothing is asked for that `pull` does not want now: what
    comes is ours to tend. A message that arrives after its request was given up is kept for the next `pull`, but not
    longer than `ack_wait_s`: by then it was delivered to somebody else.

    Of a log (None) a request stands from one `pull` to the next, so that a message comes as it is stored.
    """

    def __init__(self, link: Link, stream: str, consumer: str, ack_wait_s: float | None = None) -> None:
        self._link, self._ack_wait_s = link, ack_wait_s
        self._next_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._subscription: Any = None
        self._inbox = ""
        self._requests = 0
        self._arrived: deque[tuple[float, Any]] = deque()
        self._hand: list[Any] = []  # taken by the pull that is going on; a cancelled one leaves it here
        self._bell = asyncio.Event()
        link.bells.add(self._bell)
        self._epoch = link.epoch  # in which the present request was sent
        self._has_more = True  # the consumer, behind what came last, as far as is known
        self._owed, self._owed_until = 0, 0.0  # messages of the request that stands, and how long it does
        self._standing = ""
        self._turn = asyncio.Lock()

    async def pull(self, limit: int, wait_s: float) -> list[Any]:
        """At most `limit` messages as soon as there is one, in the consumer's order; none after `wait_s`.

        Raises Unavailable when the connection was closed for good.
        """
        async with self._turn:
            until = time.monotonic() + wait_s
            self._take_left_over(limit)
            while not self._hand:
                if self._link.client.is_closed:
                    raise Unavailable(f"the connection to {self._link.url} is closed")
                left = max(until - time.monotonic(), 0.0)
                await self._ask(limit, min(left, _LINGER_S))
                if left <= 0:
                    break
            taken, self._hand = self._hand, []
            return taken

    async def close(self) -> list[Any]:
        """Drop the requests at the server; returns what had arrived and was not taken."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._link.client.is_closed:
            with contextlib.suppress(*LOST):
                await subscription.unsubscribe()
        left = self._hand + [message for _, message in self._arrived if not _status(message)]
        self._hand = []
        self._arrived.clear()
        return left

    def _take_left_over(self, limit: int) -> None:
        oldest = time.monotonic() - self._ack_wait_s if self._ack_wait_s is not None else 0.0
        while self._arrived and len(self._hand) < limit:
            at, message = self._arrived.popleft()
            if _status(message):
                self._owed = 0 if message.subject == self._standing else self._owed
            elif at >= oldest:
                self._take(message)

    def _take(self, message: Any) -> None:
        self._hand.append(message)
        self._owed -= 1
        self._has_more = message.metadata.num_pending > 0

    async def _ask(self, limit: int, linger_s: float) -> None:
        """Take what is there now, else the first message within `linger_s`; what came with it is there at the next."""
        if not self._link.client.is_connected:
            await asyncio.sleep(min(_PAUSE_S, linger_s))
            return
        if linger_s <= 0 or (self._ack_wait_s is not None and self._has_more and limit > 1):
            await self._request(limit, 0.0)
        if not self._hand and linger_s > 0:
            await (self._request(1, linger_s) if self._ack_wait_s is not None else self._stand(limit, linger_s))

    async def _request(self, batch: int, linger_s: float) -> None:
        """One request into `_hand`: ends when the batch is full, with the server's status, or past its time."""
        until = time.monotonic() + linger_s + _GRACE_S
        reply = await self._send(batch, linger_s)
        if reply:
            await self._collect(reply, len(self._hand) + batch, until)

    async def _send(self, batch: int, linger_s: float) -> str:
        """Where the answer to the request comes; empty: it could not be sent."""
        self._requests += 1
        wish: dict[str, object] = {"batch": batch, "max_bytes": FETCH_BYTES}
        wish |= {"expires": int(linger_s * 1e9)} if linger_s > 0 else {"no_wait": True}
        if self._epoch != self._link.epoch:
            self._epoch, self._owed = self._link.epoch, 0
        try:
            reply = f"{await self._inbox_subject()}.{self._requests}"
            await self._link.client.publish(self._next_subject, json.dumps(wish).encode(), reply)
        except LOST:
            await asyncio.sleep(_PAUSE_S)
            return ""
        return reply

    async def _stand(self, limit: int, linger_s: float) -> None:
        """What comes within `linger_s` of the request that stands; another one is sent where none does."""
        now = time.monotonic()
        if self._owed <= 0 or now >= self._owed_until or self._epoch != self._link.epoch:
            self._standing = await self._send(limit, _LINGER_S)
            self._owed, self._owed_until = limit if self._standing else 0, now + _LINGER_S + _GRACE_S
        if self._owed > 0 and await self._wait(min(now + linger_s, self._owed_until)):
            if _is_refusal(self._arrived[0][1]):
                await asyncio.sleep(_PAUSE_S)
            self._take_left_over(limit)

    async def _collect(self, reply: str, count: int, until: float) -> None:
        while len(self._hand) < count and await self._wait(until):
            _, message = self._arrived.popleft()
            status = _status(message)
            if not status:
                self._take(message)
            elif message.subject == self._standing:
                self._owed = 0
            elif message.subject == reply:
                self._has_more = self._has_more and status != _NO_MESSAGES
                if _is_refusal(message):
                    await asyncio.sleep(_PAUSE_S)
                break

    async def _wait(self, until: float) -> bool:
        """Whether something has arrived before `until`, and before the server was away."""
        while not self._arrived:
            if self._epoch != self._link.epoch:
                return False
            self._bell.clear()
            try:
                async with asyncio.timeout(max(until - time.monotonic(), 0.0)):
                    await self._bell.wait()
            except TimeoutError:
                return False
        return True

    async def _inbox_subject(self) -> str:
        if self._subscription is None:
            self._inbox = self._link.client.new_inbox()
            self._subscription = await self._link.client.subscribe(f"{self._inbox}.*", cb=self._on_message)
        return self._inbox

    async def _on_message(self, message: Any) -> None:
        self._arrived.append((time.monotonic(), message))
        self._bell.set()


def _status(message: Any) -> str | None:
    """The status of an answer that is no message."""
    return message.headers.get("Status") if message.headers and not message.reply else None


def _is_refusal(message: Any) -> bool:
    """Whether the same request would be refused again at once.

    The server is starting or stopping, its leader changes, the consumer is gone, or too many requests wait at it.
    """
    status = _status(message)
    if status != _CONFLICT:
        return status == _NO_RESPONDERS
    return message.headers.get("Description", "").lower() not in _FULL


def sequences(message: Any) -> tuple[int, int, int]:
    """The message's sequence in the stream, in the consumer, and how often it was delivered (each from 1)."""
    metadata = message.metadata
    return metadata.sequence.stream, metadata.sequence.consumer, metadata.num_delivered
