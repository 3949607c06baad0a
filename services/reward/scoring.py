"""Samples through the pool, measured: what the bus, HTTP and the command line share."""

import time
from collections.abc import Sequence

from services.reward.pool import Pool
from services.reward.verdict import Sample
from shared.messages import Reward
from shared.metrics import Instruments
from shared.verifiers import known_verifiers


async def score_samples(pool: Pool, samples: Sequence[Sample], instruments: Instruments) -> list[Reward]:
    """One reward a sample, in order; raises Unavailable when the pool fails."""
    started, known = time.perf_counter(), known_verifiers()
    rewards = await pool.score(samples)
    instruments.record("reward.request", time.perf_counter() - started)
    counts: dict[tuple[str, str], int] = {}
    for sample, reward in zip(samples, rewards, strict=True):
        name = sample.spec.verifier if sample.spec.verifier in known else "unknown"
        key = ("reward.scored" if reward.ok else "reward.errors", name)
        counts[key] = counts.get(key, 0) + 1
    for (metric, name), count in counts.items():
        instruments.add(metric, count, verifier=name)
    instruments.set("reward.waiting", pool.waiting)
    instruments.set("reward.replaced", pool.counts.replaced)
    return rewards
