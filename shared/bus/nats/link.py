"""The connection to nats-server: opened within a limit, kept for ever, its calls tried again while it is away."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

import nats
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError, OutboundBufferLimitError, StaleConnectionError
from nats.js import api
from nats.js.errors import (
    BadRequestError,
    NoStreamResponseError,
    NotFoundError,
    ServerError,
    ServiceUnavailableError,
)

from shared.bus.port import ID_WINDOW_S, KEPT_PER_SUBJECT, STREAMS, WORK_STREAMS
from shared.errors import Corrupt, Unavailable, UserError
from shared.runtime.logging import get_logger
from shared.runtime.retry import Retry

OLDEST_SERVER = (2, 12)
ANSWER_S, LONGEST_ANSWER_S = 1.0, 4.0
"""How long one request may take before it is sent again: at first, and once it had no answer several times. (A host
that is overloaded would else be asked the same again and again, and answer none in time.)"""
BUCKET = "jobs"
STREAM_BYTES: Mapping[str, int] = {"prompts": 128 << 20, "completions": 512 << 20, "scored": 2 << 30}
"""Limits of the streams that refuse when full, in bytes."""
_BUFFER_BYTES = 64 << 20
_NO_STREAM = 10059
_WRONG_LIMITS = 10058  # add_stream: the stream exists with another configuration
_NO_ROOM = 10047  # the server's storage cannot hold the limits
_WRONG_LAST_SEQUENCE = (10071, 10164)
_FULL = 10077  # a stream that discards new messages has reached its limits, or (2.12) the disk is full

_SCHEMES = ("nats", "tls", "ws", "wss")

T = TypeVar("T")


class Away(Exception):
    """There is no connection now; the call is worth another try."""


LOST = (NatsError, ConnectionError)
"""What nats-py raises when the connection breaks under a call; the second is asyncio's, which it lets through."""
_TEMPORARY = (
    Away,
    TimeoutError,
    ConnectionError,
    NoRespondersError,
    OutboundBufferLimitError,
    StaleConnectionError,
    NoStreamResponseError,
    ServiceUnavailableError,
    ServerError,
)


def is_missing(error: Exception) -> bool:
    """Whether the server said that a stream, consumer or message does not exist."""
    return isinstance(error, NotFoundError)


def is_wrong_sequence(error: Exception) -> bool:
    """Whether a compare-and-set named a sequence that is not the newest."""
    return isinstance(error, BadRequestError) and error.err_code in _WRONG_LAST_SEQUENCE


def _room(error: Exception, what: str) -> str | None:
    """The room that a publish waits for; None when it is not refused for want of it. (A disk has the same code.)"""
    if not isinstance(error, ServiceUnavailableError) or error.err_code != _FULL:
        return None
    return "room on the disk of NATS" if "no space left" in str(error) else f"room in a full stream ({what})"


def _text(error: Exception) -> str:
    return f"{type(error).__name__} {error}".rstrip()


class Link:
    """One connection with JetStream; everything that is sent goes through `call`."""

    def __init__(self, place: str, retry: Retry) -> None:
        self.client = nats.NATS()
        self.url, self.retry = place, retry
        self.streams = self.client.jetstream(timeout=LONGEST_ANSWER_S)
        self.epoch = 0
        """How often the connection came back: what was asked for in an earlier epoch may be forgotten."""
        self.bells: WeakSet[asyncio.Event] = WeakSet()
        """Set whenever the epoch changes."""
        self.claimed: set[str] = set()
        """Jobs of whose log a body lies in the blob store, as far as was read here."""
        self._state: Literal["opening", "open", "closing"] = "opening"
        self._log = get_logger(nats=place)

    @classmethod
    async def open(cls, url: str, *, limit_s: float, retry: Retry, **options: Any) -> "Link":
        """Connect within `limit_s`. Raises Unavailable (no answer) or UserError (refused, too old a server)."""
        link = cls(",".join(_place(one) for one in url.split(",")), retry)
        try:
            await link._connect(url, limit_s, options)
        except BaseException:
            await link._close()
            raise
        link._state = "open"
        return link

    async def _connect(self, url: str, limit_s: float, options: dict[str, Any]) -> None:
        self._log.info("connecting")
        try:
            async with asyncio.timeout(limit_s):
                await self.client.connect(
                    url.split(","),
                    error_cb=self._on_error,
                    disconnected_cb=self._on_away,
                    reconnected_cb=self._on_back,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.2,
                    connect_timeout=2,
                    pending_size=_BUFFER_BYTES,
                    **options,
                )
        except TimeoutError:
            raise Unavailable(f"no nats-server answered at {self.url} within {limit_s:g} s") from None
        except (NatsError, OSError, ValueError) as error:
            raise UserError(f"nats-server at {self.url} refused the connection: {error}") from error
        version = self.client.connected_server_version
        if (version.major, version.minor) < OLDEST_SERVER:
            raise UserError(f"nats-server at {self.url} is {version.major}.{version.minor}, expected 2.12 or newer")

    async def _on_error(self, error: Exception) -> None:
        self._log.debug("bus error", error=repr(error))
        if self._state == "opening" and "authorization" in str(error).lower():
            raise UserError(f"nats-server at {self.url} refuses our user, password or token")  # out of `connect`

    async def _on_away(self) -> None:
        if self._state == "open":
            self._log.warning("the bus is away")

    async def _on_back(self) -> None:
        self._log.info("the bus is back")
        self.epoch += 1
        for bell in self.bells:
            bell.set()

    async def call(self, what: str, send: Callable[[], Awaitable[T]], limit_s: float | None = None) -> T:
        """`send()`, again with back-off while the server is away or a stream is full (`shared.runtime.retry`).

        It takes as long as it takes, but Unavailable past `limit_s` or the caller's own `within`. An answer that
        another try cannot change (missing, wrong sequence) is raised as it is; Corrupt where the stream is gone.
        """
        answer_s = ANSWER_S
        with self.retry.waiting(f"NATS at {self.url}", limit_s) as wait:
            while True:
                try:
                    if not self.client.is_connected:
                        raise Away("not connected")  # nothing is buffered: it would be sent late, after its retry
                    async with asyncio.timeout(wait.try_s(answer_s)):
                        return await send()
                except (Away, TimeoutError, *LOST) as error:
                    if isinstance(error, TimeoutError):
                        answer_s = min(2 * answer_s, LONGEST_ANSWER_S)
                    if not isinstance(error, _TEMPORARY):
                        self._reraise(what, error)
                    refused = Unavailable(f"{what}: {self.url} does not take it: {_text(error)}")
                    refused.__cause__ = error
                    if self.client.is_closed:
                        raise refused from error
                    pause_s = wait.pause(refused, _room(error, what))
                await asyncio.sleep(pause_s)

    def _reraise(self, what: str, error: Exception) -> None:
        if isinstance(error, NotFoundError) and error.err_code == _NO_STREAM:
            raise Corrupt(
                f"{what}: the stream is gone from {self.url}, which has lost its data; expected it to outlive a restart"
            ) from error
        if is_missing(error) or is_wrong_sequence(error):
            raise error
        raise Unavailable(f"{what}: {self.url} answered {_text(error)}") from error

    async def last(self, stream: str, subject: str) -> Any | None:
        """The newest message of `subject`, with `data`, `seq` and `headers`; None when there is none."""
        try:
            return await self.call(f"read {subject}", lambda: self.streams.get_last_msg(stream, subject))
        except NotFoundError:
            return None

    async def subjects(self, stream: str, pattern: str) -> dict[str, int]:
        """How many messages each subject that matches `pattern` has."""
        info = await self.call(f"list {pattern}", lambda: self.streams.stream_info(stream, subjects_filter=pattern))
        return dict(info.state.subjects or {})

    async def set_up(self, stream_bytes: Mapping[str, int], copies: int) -> None:
        """Create the streams and the bucket, or give existing ones the wanted limits."""
        for name in STREAMS:
            await self._set_up_stream(_stream_config(name, stream_bytes.get(name, STREAM_BYTES.get(name, -1)), copies))
        bucket = api.KeyValueConfig(bucket=BUCKET, replicas=copies)
        await self.call(f"create bucket {BUCKET}", lambda: self.streams.create_key_value(bucket))

    async def _set_up_stream(self, config: api.StreamConfig) -> None:
        async def create() -> None:
            try:
                await self.streams.add_stream(config)
            except (BadRequestError, ServerError) as error:
                if error.err_code == _NO_ROOM:
                    raise Unavailable(
                        f"nats-server at {self.url} has no room for stream {config.name} of {config.max_bytes} bytes; "
                        f"free disk space or raise its max_file_store"
                    ) from error
                if error.err_code != _WRONG_LIMITS:
                    raise
                await self.streams.update_stream(config)

        await self.call(f"create stream {config.name}", create)

    async def close(self) -> None:
        """Close the connection; what was not acknowledged is the caller's to send again."""
        self._state = "closing"
        with contextlib.suppress(TimeoutError, *LOST):
            async with asyncio.timeout(ANSWER_S):
                await self.client.flush()
        await self._close()

    async def _close(self) -> None:
        with contextlib.suppress(TimeoutError, *LOST):  # a server that is gone needs no farewell
            async with asyncio.timeout(ANSWER_S):
                await self.client.close()


def _place(url: str) -> str:
    """The address without user and password; raises UserError when it is none of NATS."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"NATS_URL is no address ({error}), expected nats://host:port") from error
    if parts.scheme not in _SCHEMES or not host:
        raise UserError(f"NATS_URL has scheme {parts.scheme!r} and host {host!r}, expected nats://host:port")
    return f"{parts.scheme}://{host}:{port or 4222}"


def _stream_config(name: str, max_bytes: int, copies: int) -> api.StreamConfig:
    kept = KEPT_PER_SUBJECT.get(name)
    return api.StreamConfig(
        name=name,
        subjects=[f"{name}.*.*"],
        retention=api.RetentionPolicy.WORK_QUEUE if name in WORK_STREAMS else api.RetentionPolicy.LIMITS,
        discard=api.DiscardPolicy.NEW if kept is None else api.DiscardPolicy.OLD,
        max_bytes=max_bytes,
        max_msgs_per_subject=-1 if kept is None else kept,
        storage=api.StorageType.FILE,
        num_replicas=copies,
        duplicate_window=ID_WINDOW_S,
    )
