"""What the HTTP routes do with a request: V-Triune's `/judge`, and batches with three-valued results."""

from collections.abc import Sequence

from services.reward.config import RewardConfig
from services.reward.http import vtriune, wire
from services.reward.http.wire import ScoreRequest, ScoreResponse, ScoreResult, ScoreSample
from services.reward.judging.judge import failed
from services.reward.scoring import Scorer
from services.reward.verdict import Sample, VerifierError
from shared.errors import TriuneError, Unavailable
from shared.messages import Reward

_LONGEST_DEADLINE_S = 600.0


class TooMany(TriuneError):
    """More samples than one request may have."""


class Judging:
    """The work behind the routes."""

    def __init__(self, scorer: Scorer, config: RewardConfig) -> None:
        self._scorer, self._config = scorer, config

    async def judge(self, payload: vtriune.JudgePayload | vtriune.PlainPayload) -> dict[str, object]:
        """V-Triune's answer to one sample; raises Overloaded and Unavailable."""
        try:
            sample = vtriune.to_sample(payload, self._config.iou_threshold, self._config.deadline_s)
        except VerifierError as error:
            return vtriune.answer(failed(str(error)))
        self._scorer.pool.admit(1)
        (reward,) = await self._scorer.score([sample])
        return vtriune.answer(reward)

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Three-valued results; raises Overloaded, TooMany, and ValueError for a deadline out of range."""
        deadline_s = self._config.deadline_s if request.deadline_s is None else request.deadline_s
        if not 0.0 < deadline_s <= _LONGEST_DEADLINE_S:
            raise ValueError(f"deadline_s is {deadline_s:g}; expected above 0 and at most {_LONGEST_DEADLINE_S:g}")
        if len(request.samples) > self._config.request_samples:
            raise TooMany(
                f"{len(request.samples)} samples in one request, expected at most {self._config.request_samples}"
            )
        self._scorer.pool.admit(len(request.samples))
        return ScoreResponse(await results(request.samples, self._scorer, self._config.iou_threshold, deadline_s))


async def results(
    given: Sequence[ScoreSample], scorer: Scorer, iou_threshold: str | float, deadline_s: float
) -> list[ScoreResult]:
    """One three-valued result a sample, in order; an infra-error for each where the pool fails."""
    prepared = [_prepare(one, iou_threshold, deadline_s) for one in given]
    try:
        scored = iter(await scorer.score_each([one for one in prepared if isinstance(one, Sample)]))
    except Unavailable as error:
        return [_infra(one, str(error)) for one in given]
    rewards = [next(scored) if isinstance(one, Sample) else one for one in prepared]
    return [_result(*pair) for pair in zip(rewards, given, strict=True)]


def _prepare(given: ScoreSample, iou_threshold: str | float, deadline_s: float) -> Sample | Reward:
    try:
        return wire.to_sample(given, iou_threshold, deadline_s)
    except VerifierError as error:
        return failed(str(error))


def _result(reward: Reward | Unavailable, given: ScoreSample) -> ScoreResult:
    return _infra(given, str(reward)) if isinstance(reward, Unavailable) else wire.to_result(reward, given)


def _infra(given: ScoreSample, reason: str) -> ScoreResult:
    return ScoreResult(status="infra-error", error=reason, id=given.id)
