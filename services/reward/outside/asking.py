"""The verifier `judge`: each different question is put to the endpoint once, a bounded number at a time."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from services.reward.endpoints.judge import Endpoint, Reply
from services.reward.judging.judge import failed, reward_of
from services.reward.judging.truths import checked
from services.reward.verdict import Sample, VerifierError
from services.reward.verifiers.judge import messages, read_score, verdict
from shared.errors import Unavailable
from shared.messages import Reward
from shared.runtime.metrics import Instruments

_MAX_TOKENS = 256


class _Settings(msgspec.Struct, frozen=True):
    """The job's keys (or a request's options) that concern the judge."""

    judge_model: str = ""
    judge_max_tokens: int = _MAX_TOKENS
    judge_prices: tuple[float, float] = (0.0, 0.0)


class _Score(msgspec.Struct, frozen=True):
    score: float
    reply: Reply


class Asking:
    """Judges samples by a model. `endpoint` None: the deployment has none.

    The scores of the last `kept` questions are kept by content (model, texts, images); what is asked at the same time
    is asked once. A score that was known costs nothing.
    """

    def __init__(self, endpoint: Endpoint | None, instruments: Instruments, *, at_once: int, kept: int) -> None:
        self._endpoint, self._instruments, self._kept = endpoint, instruments, kept
        self._room = asyncio.Semaphore(at_once)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[_Score]] = {}

    async def judge(self, sample: Sample) -> Reward:
        """The reward of `sample`; raises Unavailable when the call failed."""
        try:
            spec = checked(sample.spec) if sample.checked else sample.spec
            score, reply = await self._score(sample)
        except VerifierError as error:
            return failed(str(error))
        return reward_of(spec, verdict(sample.completion, score, reply))

    async def _score(self, sample: Sample) -> tuple[float, Reply]:
        settings = _settings(sample.spec.options)
        if self._endpoint is None:
            raise VerifierError("there is no judge: start the reward service with TRIUNE_JUDGE_URL")
        if not settings.judge_model:
            raise VerifierError("no model is named for the judge; expected reward.judge_model")
        body = {
            "model": settings.judge_model,
            "messages": messages(sample),
            "temperature": 0,
            "max_tokens": settings.judge_max_tokens,
        }
        key = blake2b(msgspec.msgpack.encode(body), digest_size=16).digest()
        if key in self._known:
            self._known.move_to_end(key)
            self._instruments.add("reward.cached", 1)
            return self._known[key], Reply("", 0, 0, 0.0)
        mine = key not in self._asked
        if mine:
            asked = self._ask(key, body, settings.judge_prices, sample.deadline_s)
            self._asked[key] = asyncio.create_task(asked)
            self._asked[key].add_done_callback(_heard)
        found = await asyncio.shield(self._asked[key])
        return found.score, found.reply if mine else Reply("", 0, 0, 0.0)

    async def _ask(self, key: bytes, body: Mapping[str, object], prices: tuple[float, float], limit_s: float) -> _Score:
        assert self._endpoint is not None
        try:
            async with self._room:
                reply = await self._endpoint.ask(body, prices, limit_s)
            self._count(reply)
            score = read_score(reply.text)
        except Unavailable:
            self._instruments.add("reward.judge_failures", 1)
            raise
        finally:
            del self._asked[key]
        if self._kept:
            self._known[key] = score
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
        return _Score(score, reply)

    def _count(self, reply: Reply) -> None:
        self._instruments.add("reward.judge_calls", 1)
        self._instruments.add("reward.judge_tokens_in", reply.tokens_in)
        self._instruments.add("reward.judge_tokens_out", reply.tokens_out)
        self._instruments.add("reward.judge_cost", reply.cost)

    async def aclose(self) -> None:
        """Ask nothing more."""
        for task in list(self._asked.values()):
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        if self._endpoint is not None:
            await self._endpoint.aclose()


def _heard(task: "asyncio.Task[_Score]") -> None:
    """Its error has been heard, even when whoever asked has gone."""
    if not task.cancelled():
        task.exception()


def _settings(options: Mapping[str, object]) -> _Settings:
    try:
        return msgspec.convert(options, _Settings)
    except msgspec.ValidationError as error:
        raise VerifierError(f"the judge's options are wrong: {error}") from None
