"""An OpenAI-compatible endpoint: one question, one reply, and what it cost.

Source of the contract: OpenAI's API reference, "Create chat completion" (`POST /chat/completions`). The key goes into
the header `Authorization` and nowhere else: what is told of an endpoint's own words has it taken out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
import msgspec

from services.reward.verdict import VerifierError
from shared.errors import Unavailable

_REFUSES_THIS_ONE = frozenset((400, 413, 415, 422))
"""What an endpoint says of a request that it will never take; anything else that is no 200 may pass."""
_MAX_REPLY_BYTES = 1024 * 1024
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The text, the tokens in and out, and the cost in the currency of the prices."""

    text: str
    tokens_in: int
    tokens_out: int
    cost: float


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class Endpoint:
    """The endpoint below `url` (which ends in `/v1` with most servers)."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url, self._key = url.rstrip("/"), key or ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(headers=headers, limits=httpx.Limits(max_connections=None))

    async def ask(self, body: Mapping[str, object], prices: tuple[float, float], limit_s: float) -> Reply:
        """The reply to a chat completion's body within `limit_s`; `prices` are those of a million tokens in and out.

        Raises Unavailable when the call fails, VerifierError when the endpoint refuses this very request or its reply
        cannot be read.
        """
        content = msgspec.json.encode(body)
        timeout = httpx.Timeout(limit_s, connect=min(limit_s, _CONNECT_S))
        try:
            request = self._http.build_request(
                "POST",
                f"{self._url}/chat/completions",
                content=content,
                headers={"Content-Type": "application/json"},
                timeout=timeout,
            )
            response = await self._http.send(request, stream=True)
            try:
                status, text = response.status_code, await _read(response)
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(self._clean(f"the judge at {self._url} does not answer: {error!r}")) from None
        if status != 200:
            told = self._clean(f"the judge at {self._url} answers {status}: {text[:300].decode(errors='replace')}")
            raise VerifierError(told) if status in _REFUSES_THIS_ONE else Unavailable(told)
        return self._parsed(text, prices)

    def _parsed(self, text: bytes, prices: tuple[float, float]) -> Reply:
        try:
            body = msgspec.json.decode(text, type=_Body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise VerifierError(f"the judge's reply is no chat completion: {error}") from None
        if not body.choices or not body.choices[0].message.content:
            raise VerifierError("the judge's reply is empty")
        usage = body.usage or _Usage()
        cost = usage.cost
        if cost is None:
            cost = (usage.prompt_tokens * prices[0] + usage.completion_tokens * prices[1]) / 1e6
        return Reply(body.choices[0].message.content, usage.prompt_tokens, usage.completion_tokens, cost)

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()


async def _read(response: httpx.Response) -> bytes:
    """The whole body; raises VerifierError for one that is too large."""
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > _MAX_REPLY_BYTES:
            raise VerifierError(f"the judge's reply is larger than {_MAX_REPLY_BYTES} bytes")
    return b"".join(parts)
