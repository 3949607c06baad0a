"""Bodies that lie in the blob store go with their messages, so that long answers do not fill it while a job runs.

What is missed (the store is away, a process is killed) goes with the job.
"""

import asyncio
import contextlib
from typing import Any

from nats.js.errors import NotFoundError

from shared.blobs.port import Blobs
from shared.bus.nats.link import ANSWER_S, LOST, Link
from shared.bus.nats.log import OrderedReader
from shared.bus.nats.pull import sequences
from shared.bus.nats.wire import claim_of
from shared.errors import Unavailable
from shared.messages import BlobRef
from shared.runtime.logging import get_logger

_HEADERS_A_FETCH = 256


async def ack_claimed(link: Link, raw: Any, blobs: Blobs, ref: BlobRef) -> None:
    """Acknowledge a message and drop its body, once the server has confirmed that nobody gets it again."""
    with contextlib.suppress(TimeoutError, *LOST):
        await link.client.request(raw.reply, b"+ACK", timeout=ANSWER_S)
        await _drop(blobs, ref)


async def is_done(link: Link, raw: Any) -> bool:
    """Whether the message is gone from its work queue: somebody has acknowledged it."""
    stream, (sequence, _, _) = raw.subject.split(".", 1)[0], sequences(raw)
    try:
        await link.call(f"look at {stream}", lambda: link.streams.get_msg(stream, sequence))
    except NotFoundError:
        return True
    return False


async def drop_bodies(link: Link, stream: str, subject: str, below: int | None, blobs: Blobs) -> None:
    """Drop the bodies of the messages under `subject` below a sequence (None: of all), which are about to be purged."""
    newest = await link.last(stream, subject)
    end = 0 if newest is None else min(newest.seq + 1, below or newest.seq + 1)
    reader = OrderedReader(link, stream, subject, 1, headers_only=True)
    try:
        while reader.next < end and (raws := await reader.fetch(_HEADERS_A_FETCH, ANSWER_S)):
            for raw in raws:
                sequence, _, _ = sequences(raw)
                reader.advance(sequence)
                ref = claim_of(raw)
                if ref is not None and sequence < end:
                    await _drop(blobs, ref)
    finally:
        await reader.close()


async def _drop(blobs: Blobs, ref: BlobRef) -> None:
    try:
        await asyncio.to_thread(blobs.delete, ref)
    except Unavailable as error:
        get_logger().warning("the body of a message stays until its job is over", error=str(error))
