"""What the HTTP routes do: V-Triune's `/judge`, and batches with three-valued results."""

from services.reward import vtriune
from services.reward.config import RewardConfig
from services.reward.judge import failed
from services.reward.scoring import Scorer
from services.reward.verdict import Sample, VerifierError
from services.reward.workers import wire
from services.reward.workers.wire import ScoreRequest, ScoreResponse, ScoreResult
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
        prepared = [self._prepare(given, deadline_s) for given in request.samples]
        try:
            scored = iter(await self._scorer.score_each([one for one in prepared if isinstance(one, Sample)]))
        except Unavailable as error:
            return ScoreResponse([_infra(one, str(error)) for one in request.samples])
        rewards = [next(scored) if isinstance(one, Sample) else one for one in prepared]
        return ScoreResponse([_result(*pair) for pair in zip(rewards, request.samples, strict=True)])

    def _prepare(self, given: wire.ScoreSample, deadline_s: float) -> Sample | Reward:
        try:
            return wire.to_sample(given, self._config.iou_threshold, deadline_s)
        except VerifierError as error:
            return failed(str(error))


def _result(reward: Reward | Unavailable, given: wire.ScoreSample) -> ScoreResult:
    return _infra(given, str(reward)) if isinstance(reward, Unavailable) else wire.to_result(reward, given)


def _infra(given: wire.ScoreSample, reason: str) -> ScoreResult:
    return ScoreResult(status="infra-error", error=reason, id=given.id)
