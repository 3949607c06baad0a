"""Ground truths judged by their own verifiers, in the reward service's workers: what a job would void."""

import asyncio
from collections.abc import Sequence
from types import TracebackType

from services.reward.config import RewardConfig
from services.reward.metrics import instruments
from services.reward.scoring import Scorer, make_scorer
from services.reward.verdict import Sample
from shared.messages import RewardSpec
from shared.samples.files import Problem


class Truths:
    """A context in which truths are judged; `options` are a job's reward section, and so may name its dialect."""

    def __init__(self, options: dict[str, object]) -> None:
        self._options = {"dialect": "tolerant", **options}
        self._runner = asyncio.Runner()
        self._scorer: Scorer | None = None

    def __enter__(self) -> "Truths":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._scorer is not None:
            self._runner.run(self._scorer.__aexit__())
        self._runner.close()

    def problems(self, place: str, rows: Sequence[tuple[int, RewardSpec]]) -> list[Problem]:
        """A problem for each row of the file `place` whose truth its verifier cannot use, by the row's number."""
        if not rows:
            return []
        if self._scorer is None:  # a worker takes a second to start
            self._scorer = self._runner.run(_started())
        samples = [Sample(completion="", spec=self._with_options(spec)) for _, spec in rows]
        rewards = self._runner.run(self._scorer.score(samples))
        return [
            Problem(place, row, reward.error) for (row, _), reward in zip(rows, rewards, strict=True) if not reward.ok
        ]

    def _with_options(self, spec: RewardSpec) -> RewardSpec:
        return RewardSpec(
            verifier=spec.verifier,
            answer="",
            ground_truth=spec.ground_truth,
            params=spec.params,
            options=self._options,
        )


async def _started() -> Scorer:
    return await make_scorer(RewardConfig(cached_rewards=65_536), instruments()).__aenter__()
