"""The wire form of a message: its body or the claim check of one, its id, and the trace that it belongs to."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, get_args

import msgspec
from opentelemetry import propagate

from shared.blobs.port import Blobs
from shared.bus.port import MAX_BODY_BYTES
from shared.errors import BlobMissing, TriuneError, Unavailable
from shared.messages import (
    AnyMessage,
    BlobRef,
    Completed,
    DeadLetter,
    Event,
    JournalRecord,
    Kind,
    Message,
    Prompt,
    Voided,
    decode,
    encode,
)
from shared.runtime.retry import BLOB_STORE, Retry

ID_HEADER = "Nats-Msg-Id"
BODY_HEADER = "Triune-Body"
"""`<digest>/<size>` of a body that lies in the blob store."""
_TRACE_HEADERS = ("traceparent", "tracestate", "baggage")
_ID = re.compile(r"^(?P<job>[a-z0-9-]+)/(?P<kind>train|eval)/(?P<version>-|\d+)/(?P<ordinal>\d+)/\d+$")
_CARRIED: dict[str, tuple[type, ...]] = {
    "prompts": (Prompt,),
    "completions": (Completed,),
    "scored": get_args(JournalRecord),
    "events": get_args(Event),
    "dead": (DeadLetter,),
}


class Unreadable(TriuneError):
    """A message whose body does not decode, is of a foreign kind, or is gone from the blob store."""


async def seal(
    message: Message, job: str, message_id: str, blobs: Blobs | None, retry: Retry
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of `message`; a body over 512 KB is left in the blob store, as `job`'s, which is waited for."""
    headers = {ID_HEADER: message_id}
    propagate.inject(headers)
    body = encode(message)
    if len(body) <= MAX_BODY_BYTES:
        return body, headers
    if blobs is None:
        raise Unavailable(f"{message_id} has {len(body)} bytes, over {MAX_BODY_BYTES}, and there is no blob store")
    ref = await retry.until_back(BLOB_STORE, lambda: asyncio.to_thread(blobs.of(job).put, body))
    return b"", headers | {BODY_HEADER: f"{ref.digest}/{ref.size}"}


async def unseal(message: Any, blobs: Blobs | None, retry: Retry) -> AnyMessage:
    """The message in a NATS message; raises Unreadable. A blob store that is away is waited for."""
    found, _ = await unseal_with_body(message, blobs, retry)
    return found


async def unseal_with_body(message: Any, blobs: Blobs | None, retry: Retry) -> tuple[AnyMessage, bytes]:
    """`unseal`, and the bytes that the message was decoded from."""
    stream = message.subject.split(".", 1)[0]
    try:
        body = await _body(message, blobs, retry)
        found = decode(body)
    except (BlobMissing, msgspec.MsgspecError, ValueError) as error:
        raise Unreadable(f"message on {message.subject} cannot be read: {error}") from error
    if not isinstance(found, _CARRIED[stream]):
        raise Unreadable(f"message on {message.subject} is a {type(found).__name__}, which {stream} does not carry")
    return found, body


def claim_of(message: Any) -> BlobRef | None:
    """Where the message's body lies in the blob store; None when it has it with it.

    A header that a stranger has written names a blob that is not there.
    """
    check = (message.headers or {}).get(BODY_HEADER)
    if check is None:
        return None
    digest, _, size = check.partition("/")
    return BlobRef(digest=digest, size=int(size) if size.isdecimal() else 0)


async def _body(message: Any, blobs: Blobs | None, retry: Retry) -> bytes:
    ref = claim_of(message)
    if ref is None:
        return bytes(message.data)
    if blobs is None:
        raise Unavailable(f"the body of a message on {message.subject} is a blob, and there is no blob store")
    return await retry.until_back(BLOB_STORE, lambda: asyncio.to_thread(blobs.get, ref))


def trace_of(message: Any) -> Mapping[str, str]:
    """The W3C trace headers that the message came with."""
    headers = message.headers or {}
    return {name: headers[name] for name in _TRACE_HEADERS if name in headers}


def void_of(message: Any, error: Unreadable) -> Voided | None:
    """The void of a group whose message cannot be read, as far as its id tells; None when it is not one of ours."""
    named = _ID.match((message.headers or {}).get(ID_HEADER, ""))
    if named is None:
        return None
    kind: Kind = "eval" if named["kind"] == "eval" else "train"
    return Voided(
        job=named["job"],
        kind=kind,
        ordinal=int(named["ordinal"]),
        source="unknown",
        task="unknown",
        reason="bad-sample",
        detail=str(error),
        stage="bus",
        version=None if named["version"] == "-" else int(named["version"]),
    )
