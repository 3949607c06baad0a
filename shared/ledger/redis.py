"""The ledger over Redis 6.2; the only module that knows Redis.

Keys of a job, all under `triune:<job>:`

    window      hash: version, cursor, end, max_staleness
    loaded      hash: replica -> version;  seen: sorted set, replica -> when that entry expires
    in_flight   sorted set: ordinal -> when that entry expires
    staleness   hash: <source>:<staleness> -> trained groups
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.retry import Retry as RedisRetry

from shared.errors import Unavailable, UserError
from shared.ledger.port import LOADED_S, LedgerView, Window
from shared.runtime.retry import CONNECT_S, Retry

CALL_S = 2.0
SKIP_S = 2.0
"""After a call without an answer the next ones fail at once for so long: a view must not slow down what it shows."""
_PAUSE_S = 0.2
_KEYS = ("window", "loaded", "seen", "in_flight", "staleness")

T = TypeVar("T")


class RedisLedger:
    """`shared.ledger.port.Ledger`; times are this host's: hosts whose clocks differ see entries expire a little off."""

    def __init__(self, client: Any, place: str, retry: Retry, clock: Callable[[], float] = time.time) -> None:
        self._client, self._place, self._retry, self._clock = client, place, retry, clock
        self._is_away, self._skip_until = False, 0.0

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        connect_limit_s: float = CONNECT_S,
        retry: Retry | None = None,
        clock: Callable[[], float] = time.time,
    ) -> "RedisLedger":
        """Connect within `connect_limit_s`. Raises Unavailable (no answer) or UserError (bad address, refused)."""
        try:
            client = redis.asyncio.Redis.from_url(
                url, decode_responses=True, socket_connect_timeout=CALL_S, retry=RedisRetry(NoBackoff(), 1)
            )
        except ValueError as error:
            raise UserError(f"REDIS_URL is not an address of Redis: {error}") from error
        parts = urlsplit(url)
        ledger = cls(client, f"redis at {parts.hostname}:{parts.port or 6379}", retry or Retry(), clock)
        until = time.monotonic() + connect_limit_s
        while True:
            try:
                await ledger._call("ping", client.ping)
            except Unavailable as error:
                if isinstance(error.__cause__, AuthenticationError | ResponseError):
                    await client.aclose()
                    raise UserError(f"{ledger._place} refused the connection: {error.__cause__}") from error
                if time.monotonic() + _PAUSE_S > until:
                    await client.aclose()
                    raise Unavailable(f"{ledger._place} did not answer within {connect_limit_s:g} s") from error
                await asyncio.sleep(_PAUSE_S)
            else:
                return ledger

    async def _call(self, what: str, send: Callable[[], Awaitable[T]]) -> T:
        if time.monotonic() < self._skip_until:
            raise Unavailable(f"{self._place} is away: {what} was not tried")
        try:
            answer = await self._send(what, send)
        except Unavailable as error:
            if not self._is_away:
                self._retry.lost(self._place)
            self._is_away = True
            self._retry.tell(self._place, error)
            raise
        if self._is_away:
            self._retry.found(self._place)
        self._is_away = False
        return answer

    async def _send(self, what: str, send: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(CALL_S):
                return await send()
        except TimeoutError as error:
            self._skip_until = time.monotonic() + SKIP_S
            raise Unavailable(f"{self._place} did not answer {what} within {CALL_S:g} s") from error
        except (RedisError, OSError) as error:
            raise Unavailable(f"{self._place} failed at {what}: {error}") from error

    async def _pipe(self, what: str, fill: Callable[[Any], None]) -> list[Any]:
        """Commands sent together and done together."""
        pipe = self._client.pipeline(transaction=True)
        fill(pipe)
        answers: list[Any] = await self._call(what, pipe.execute)
        return answers

    async def write_window(self, job: str, window: Window) -> None:
        fields = {
            "version": window.version,
            "cursor": window.cursor,
            "end": window.end,
            "max_staleness": window.max_staleness,
        }
        await self._call("write window", lambda: self._client.hset(_key(job, "window"), mapping=fields))

    async def window(self, job: str) -> Window | None:
        return _window(await self._call("read window", lambda: self._client.hgetall(_key(job, "window"))))

    async def loaded(self, job: str, replica: str, version: int) -> None:
        now = self._clock()

        def fill(pipe: Any) -> None:
            pipe.hset(_key(job, "loaded"), replica, version)
            pipe.zadd(_key(job, "seen"), {replica: now + LOADED_S})

        await self._pipe("write loaded version", fill)

    async def groups(self, job: str, started: Collection[int], ended: Collection[int], deadline_s: float) -> None:
        now, key = self._clock(), _key(job, "in_flight")

        def fill(pipe: Any) -> None:
            pipe.zremrangebyscore(key, "-inf", now)
            if started:
                pipe.zadd(key, {str(ordinal): now + deadline_s for ordinal in started})
            if ended:
                pipe.zrem(key, *map(str, ended))

        await self._pipe("count groups in flight", fill)

    async def trained(self, job: str, staleness: Mapping[str, Sequence[int]]) -> None:
        def fill(pipe: Any) -> None:
            for source, values in staleness.items():
                for value, count in Counter(values).items():
                    pipe.hincrby(_key(job, "staleness"), f"{source}:{value}", count)

        if any(staleness.values()):
            await self._pipe("count trained groups", fill)

    async def view(self, job: str) -> LedgerView:
        now = self._clock()

        def fill(pipe: Any) -> None:
            pipe.hgetall(_key(job, "window"))
            pipe.hgetall(_key(job, "loaded"))
            pipe.zrangebyscore(_key(job, "seen"), f"({now}", "+inf")
            pipe.zcount(_key(job, "in_flight"), f"({now}", "+inf")
            pipe.hgetall(_key(job, "staleness"))

        window, loaded, seen, in_flight, counts = await self._pipe("view", fill)
        staleness: dict[str, dict[int, int]] = {}
        for name, count in counts.items():
            source, value = name.rsplit(":", 1)
            staleness.setdefault(source, {})[int(value)] = int(count)
        return LedgerView(
            window=_window(window),
            loaded={replica: int(loaded[replica]) for replica in seen if replica in loaded},
            in_flight=int(in_flight),
            staleness=staleness,
        )

    async def forget(self, job: str) -> None:
        await self._call("forget", lambda: self._client.delete(*(_key(job, name) for name in _KEYS)))

    async def close(self) -> None:
        await self._client.aclose()


def _key(job: str, name: str) -> str:
    return f"triune:{job}:{name}"


def _window(fields: dict[str, str]) -> Window | None:
    names = ("version", "cursor", "end", "max_staleness")
    if any(name not in fields for name in names):
        return None  # missing is unknown, never 0
    version, cursor, end, max_staleness = (int(fields[name]) for name in names)
    return Window(version, cursor, end, max_staleness)
