"""Samples through the pool, measured: what the bus, HTTP and the command line share."""

import time
from collections import Counter
from collections.abc import Sequence

from services.reward.verdict import Sample
from services.reward.workers.pool import Pool
from shared.messages import Reward
from shared.runtime.metrics import Instruments
from shared.samples.verifiers import known_verifiers

_FLUSH_S = 0.5


class Scorer:
    """A pool with its counters. They are written to the instruments when nothing is in work, or every half second.

    An instrument costs more than a plain number does to judge; under load it is not touched for each request.
    """

    def __init__(self, pool: Pool, instruments: Instruments) -> None:
        self.pool = pool
        self._instruments = instruments
        self._counts: Counter[tuple[str, str]] = Counter()
        self._requests, self._seconds = 0, 0.0
        self._open, self._flushed, self._cached = 0, 0.0, 0

    async def score(self, samples: Sequence[Sample]) -> list[Reward]:
        """One reward a sample, in order; raises Unavailable when the pool fails."""
        started = time.monotonic()
        self._open += 1
        try:
            rewards = await self.pool.score(samples)
        finally:
            self._open -= 1
        known = known_verifiers()
        for sample, reward in zip(samples, rewards, strict=True):
            name = sample.spec.verifier
            self._counts["reward.scored" if reward.ok else "reward.errors", name if name in known else "unknown"] += 1
        now = time.monotonic()
        self._requests += 1
        self._seconds += now - started
        if not self._open or now - self._flushed > _FLUSH_S:
            self._flush(now)
        return rewards

    def _flush(self, now: float) -> None:
        for (metric, name), count in self._counts.items():
            self._instruments.add(metric, count, verifier=name)
        self._instruments.add("reward.requests", self._requests)
        self._instruments.add("reward.request_seconds", self._seconds)
        self._instruments.set("reward.waiting", self.pool.waiting)
        self._instruments.set("reward.replaced", self.pool.counts.replaced)
        self._instruments.add("reward.cached", self.pool.counts.cached - self._cached)
        self._cached = self.pool.counts.cached
        self._counts.clear()
        self._requests, self._seconds, self._flushed = 0, 0.0, now
