"""Samples to whoever judges them, measured: what the bus, HTTP and the command line share."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.reward.config import RewardConfig
from services.reward.endpoints.judge import Endpoint
from services.reward.outside.asking import Asking
from services.reward.outside.running import Running
from services.reward.verdict import Sample
from services.reward.workers.pool import Pool
from shared.errors import Unavailable, one_error
from shared.messages import Reward
from shared.runtime.metrics import Instruments
from shared.runtime.retry import Retry
from shared.samples.verifiers import known_verifiers

_FLUSH_S = 0.5


class Outside(Protocol):
    """Whoever judges the samples of one verifier that the workers cannot run."""

    async def judge(self, sample: Sample) -> Reward:
        """Its reward; raises Unavailable."""
        ...

    async def aclose(self) -> None:
        """Give up what it holds."""
        ...


def make_scorer(config: RewardConfig, instruments: Instruments, retry: Retry | None = None) -> "Scorer":
    """The scorer that `config` describes, not started; `retry` tells what it waits for."""
    pool = Pool(
        config.workers,
        config.worker_memory_bytes,
        config.waiting_samples,
        config.cached_rewards,
        config.plugin_roots,
        retry or Retry(),
    )
    endpoint = Endpoint(config.judge_url, config.judge_key) if config.judge_url else None
    asking = Asking(endpoint, instruments, at_once=config.judge_calls, kept=config.cached_rewards)
    return Scorer(pool, instruments, {"judge": asking, "python": Running(at_once=config.workers)})


class Scorer:
    """A pool, those who judge `outside` of it by verifier, and their counters.

    The counters are written to the instruments when nothing is in work, or every half second: an instrument costs more
    than a plain number does to judge; under load it is not touched for each request. As an async context manager it
    starts and ends what it holds.
    """

    def __init__(self, pool: Pool, instruments: Instruments, outside: Mapping[str, Outside] | None = None) -> None:
        self.pool = pool
        self._outside = outside or {}
        self._instruments = instruments
        self._counts: Counter[tuple[str, str]] = Counter()
        self._requests, self._seconds = 0, 0.0
        self._open, self._flushed, self._cached = 0, 0.0, 0

    async def __aenter__(self) -> "Scorer":
        await self.pool.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.close()
        for one in self._outside.values():
            await one.aclose()

    async def score(self, samples: Sequence[Sample]) -> list[Reward]:
        """One reward a sample, in order; raises Unavailable when the pool fails, or nobody could judge one of them."""
        rewards = []
        for found in await self.score_each(samples):
            if isinstance(found, Unavailable):
                raise found
            rewards.append(found)
        return rewards

    async def score_each(self, samples: Sequence[Sample]) -> list[Reward | Unavailable]:
        """The same with an error in the place of each sample that nobody could judge now."""
        started = time.monotonic()
        self._open += 1
        try:
            found = await self._judged(samples)
        finally:
            self._open -= 1
        known = known_verifiers()
        for sample, reward in zip(samples, found, strict=True):
            if isinstance(reward, Reward):
                name = sample.spec.verifier if sample.spec.verifier in known else "unknown"
                self._counts["reward.scored" if reward.ok else "reward.errors", name] += 1
        now = time.monotonic()
        self._requests += 1
        self._seconds += now - started
        if not self._open or now - self._flushed > _FLUSH_S:
            self._flush(now)
        return found

    async def _judged(self, samples: Sequence[Sample]) -> list[Reward | Unavailable]:
        apart = [place for place, sample in enumerate(samples) if sample.spec.verifier in self._outside]
        if not apart:
            return list(await self.pool.score(samples))
        left = sorted(set(range(len(samples))) - set(apart))
        with one_error():
            async with asyncio.TaskGroup() as tasks:
                pooled = tasks.create_task(self.pool.score([samples[place] for place in left]))
                asked = [tasks.create_task(self._asked(samples[place])) for place in apart]
        found = dict(zip(left, pooled.result(), strict=True)) | {
            place: task.result() for place, task in zip(apart, asked, strict=True)
        }
        return [found[place] for place in range(len(samples))]

    async def _asked(self, sample: Sample) -> Reward | Unavailable:
        try:
            return await self._outside[sample.spec.verifier].judge(sample)
        except Unavailable as error:
            return error

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
