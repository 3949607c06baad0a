"""The one active instance of data, learner or monitor: whoever holds the key `lease.<service>`.

Its holder writes the key again and again. No clock of another host is compared: a standby takes a lease over once it
has seen the same revision for `LEASE_S` of its own clock, on a bus that answered all the while.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import msgspec

from shared.bus.port import Bus
from shared.errors import Refused, TriuneError, Unavailable
from shared.messages import Message
from shared.runtime.retry import within

LEASE_S = 5.0
POLL_S = 0.5


class Lease(Message, frozen=True, kw_only=True):
    """Who is the one active instance of a service."""

    owner: str


async def while_leading(bus: Bus, service: str, owner: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` as the one active instance of `service`: wait for the lease, renew it, give it back at the end.

    Raises Refused when another instance took the lease (this one slept past it): the process must end.
    """
    revision = await _take_lease(bus, service, owner)
    renewing = asyncio.ensure_future(_renew(bus, service, owner, revision))
    working = asyncio.ensure_future(work())
    try:
        await asyncio.wait({renewing, working}, return_when=asyncio.FIRST_COMPLETED)
        for one in (renewing, working):
            if one.done():
                one.result()
    finally:
        for one in (renewing, working):
            one.cancel()
        await asyncio.wait({renewing, working})
        with contextlib.suppress(TriuneError), within(LEASE_S / 5):
            await bus.put(f"lease.{service}", b"", revision=await _revision(bus, service, owner))


async def _renew(bus: Bus, service: str, owner: str, revision: int) -> None:
    while True:
        await asyncio.sleep(LEASE_S / 5)
        revision = await bus.put(f"lease.{service}", _lease(owner), revision=revision)


async def _revision(bus: Bus, service: str, owner: str) -> int:
    """The revision of our own lease; raises Refused when it is another's."""
    found = await bus.get(f"lease.{service}")
    if found is None or not found.value or msgspec.msgpack.decode(found.value, type=Lease).owner != owner:
        raise Refused(f"the lease of {service} is not held by {owner}")
    return found.revision


async def _take_lease(bus: Bus, service: str, owner: str) -> int:
    """Wait until the lease is free, ours from before, or not renewed for `LEASE_S`, then take it; its revision."""
    seen, since = -1, 0.0
    while True:
        try:
            with within(LEASE_S / 5):
                found = await bus.get(f"lease.{service}")
            revision = found.revision if found else 0
            if revision != seen:
                seen, since = revision, time.monotonic()
            lease = msgspec.msgpack.decode(found.value, type=Lease) if found and found.value else None
            if lease is None or lease.owner == owner or time.monotonic() - since >= LEASE_S:
                with contextlib.suppress(Refused):
                    return await bus.put(f"lease.{service}", _lease(owner), revision=revision)
        except Unavailable:
            seen = -1  # its holder cannot renew it either
        await asyncio.sleep(POLL_S)


def _lease(owner: str) -> bytes:
    return msgspec.msgpack.encode(Lease(owner=owner))
