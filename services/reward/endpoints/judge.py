"""The judge's endpoint: one question, one reply, and what it cost.

Source of the contract: OpenAI's API reference, "Create chat completion" (`POST /chat/completions`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from services.reward.endpoints.server import Server, TooLarge
from services.reward.verdict import VerifierError
from shared.errors import Unavailable

_REFUSES_THIS_ONE = frozenset((400, 413, 415, 422))
"""What an endpoint says of a request that it will never take; anything else that is no 200 may pass."""
_MAX_REPLY_BYTES = 1024 * 1024


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
        self._server = Server("the judge", url, key)

    async def ask(self, body: Mapping[str, object], prices: tuple[float, float], limit_s: float) -> Reply:
        """The reply to a chat completion's body within `limit_s`; `prices` are those of a million tokens in and out.

        Raises Unavailable when the call fails, VerifierError when the endpoint refuses this very request or its reply
        cannot be read.
        """
        try:
            status, text = await self._server.post("/chat/completions", body, limit_s=limit_s, most=_MAX_REPLY_BYTES)
        except TooLarge as error:
            raise VerifierError(str(error)) from None
        if status != 200:
            told = self._server.told(status, text)
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

    async def aclose(self) -> None:
        """Close its connections."""
        await self._server.aclose()
