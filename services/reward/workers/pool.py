"""A pool of killable worker processes: every sample gets a reward within its deadline, whatever it does to its worker.

Samples are handed out in small batches. A worker returns what it has after 50 ms, so that a slow sample holds up no
other; the ones behind a sample that hangs are given to other workers at once. A worker that passes a sample's deadline
is killed, one that dies is replaced, and either costs that one sample a `verifier-error`.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import msgspec

from services.reward.judging.judge import failed
from services.reward.verdict import Sample
from services.reward.workers.process import Worker, WorkerDied
from services.reward.workers.worker import BUDGET_S
from shared.errors import TriuneError, Unavailable
from shared.messages import Reward
from shared.runtime.retry import Retry

WORKER = "a verifier worker"
"""What is waited for while one cannot be started."""
BATCH = 32
"""Samples that one worker is given together, at most."""
BATCH_CHARACTERS = 1_000_000
"""Characters of their completions, beyond which a batch takes no further sample."""
_LEAST = 8  # samples that are worth waking a worker for, where there are as many
_CROWD = 4  # requests a worker, from which on it is worth waiting ...
_GATHER_S = 0.004  # ... so long for others to come: handing over a sample alone costs as much as judging it
_GRACE_S = 2 * BUDGET_S  # after it a worker has not begun, and will not begin, another sample of the batch
_LOOK_S = 0.05
_STOPPING = "the reward service is stopping"


class Overloaded(TriuneError):
    """The queue is full; try again in `retry_after_s` seconds."""

    def __init__(self, waiting: int, limit: int, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{waiting} samples are waiting, expected at most {limit}; try again later")


@dataclass
class _Request:
    """Samples asked for together, and their rewards as they come."""

    rewards: list[Reward | None]
    done: asyncio.Future[None]
    open: int

    def settle(self, place: int, reward: Reward) -> None:
        if self.rewards[place] is None:
            self.rewards[place] = reward
            self.open -= 1
            if not self.open and not self.done.done():
                self.done.set_result(None)

    def fail(self, error: Unavailable) -> None:
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True)
class _Item:
    sample: Sample
    frame: msgspec.Raw  # the sample as it is sent
    request: _Request
    place: int
    digest: bytes = b""
    tries: int = 0  # workers that died before they had begun a sample of its batch

    @property
    def open(self) -> bool:
        return self.request.rewards[self.place] is None and not self.request.done.done()

    def settle(self, reward: Reward) -> None:
        self.request.settle(self.place, reward)


@dataclass
class PoolCounts:
    """What the pool has done since it started."""

    scored: int = 0
    errors: int = 0
    replaced: int = 0
    cached: int = 0


@dataclass
class Pool:
    """`workers` processes with at most `memory_bytes` of address space each; at most `limit` samples wait.

    The rewards of the last `cached_rewards` samples are kept by content. Jobs may name plugins under `plugin_roots`.
    `retry` says so while a worker that has ended cannot be replaced.

    Use it as an async context manager. All of it lives in one event loop.
    """

    workers: int = 1
    memory_bytes: int = 4 * 1024**3
    limit: int = 4096
    cached_rewards: int = 0
    plugin_roots: tuple[Path, ...] = ()
    retry: Retry = field(default_factory=Retry)
    counts: PoolCounts = field(default_factory=PoolCounts)

    def __post_init__(self) -> None:
        self._waiting: deque[_Item] = deque()
        self._bell = asyncio.Event()
        self._lanes: list[asyncio.Task[None]] = []
        self._live: dict[int, Worker] = {}  # by lane
        self._known: OrderedDict[bytes, Reward] = OrderedDict()  # by the digest of the sample, the last used one last
        self._requests = 0  # that are being judged

    async def __aenter__(self) -> "Pool":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the workers; raises Unavailable when one does not come up."""
        started = await asyncio.gather(
            *(Worker.start(self.memory_bytes, self.plugin_roots) for _ in range(self.workers)), return_exceptions=True
        )
        self._live = {lane: worker for lane, worker in enumerate(started) if isinstance(worker, Worker)}
        problems = [problem for problem in started if isinstance(problem, BaseException)]
        if problems:
            await self.close()
            raise problems[0]
        self._lanes = [asyncio.create_task(self._run_lane(lane)) for lane in range(self.workers)]

    async def close(self) -> None:
        """End the workers; what is not done fails with Unavailable."""
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        self._fail_waiting(Unavailable(_STOPPING))
        await asyncio.gather(*(worker.close() for worker in self._live.values()))
        self._live.clear()

    async def watch(self) -> None:
        """Wait while the pool runs; raises the fault that has ended one of its lanes: the pool is of no more use."""
        ended, _ = await asyncio.wait(self._lanes, return_when=asyncio.FIRST_EXCEPTION)
        for lane in ended:
            lane.result()

    @property
    def waiting(self) -> int:
        """Samples that no worker has been given yet."""
        return len(self._waiting)

    @property
    def pids(self) -> list[int]:
        """The worker processes."""
        return [worker.pid for worker in self._live.values()]

    @property
    def ready(self) -> bool:
        return bool(self._lanes) and not any(lane.done() for lane in self._lanes)

    def admit(self, samples: int) -> None:
        """Raise Overloaded when `samples` more do not fit into the queue (an empty queue takes any number)."""
        if self._waiting and len(self._waiting) + samples > self.limit:
            raise Overloaded(len(self._waiting), self.limit, retry_after_s=1.0)

    async def score(self, samples: Sequence[Sample]) -> list[Reward]:
        """One reward a sample, in order; whoever calls it bounds how much waits (HTTP by `admit`).

        Raises Unavailable when the pool itself fails; nothing that a sample does raises.
        """
        if not self.ready:
            raise Unavailable("the reward service's workers are not running")
        request = _Request([None] * len(samples), asyncio.get_running_loop().create_future(), len(samples))
        if samples:
            for place, sample in enumerate(samples):
                self._queue(sample, request, place)
            if self._waiting:
                self._bell.set()
            self._requests += 1
            try:
                await request.done
            finally:
                self._requests -= 1
        rewards = [reward for reward in request.rewards if reward is not None]
        failures = sum(not reward.ok for reward in rewards)
        self.counts.scored += len(rewards) - failures
        self.counts.errors += failures
        return rewards

    def _queue(self, sample: Sample, request: _Request, place: int) -> None:
        """Queue a sample; one that has no wire form (a lone surrogate, a huge integer) gets its verdict at once."""
        try:
            frame = msgspec.Raw(msgspec.msgpack.encode(sample))
        except (ValueError, OverflowError, TypeError, RecursionError) as error:
            _Item(sample, msgspec.Raw(), request, place).settle(failed(f"the sample cannot be sent: {error}"))
            return
        item = _Item(sample, frame, request, place, self._digest(frame))
        known = self._known.get(item.digest)
        if known is None:
            self._waiting.append(item)
            return
        self._known.move_to_end(item.digest)
        self.counts.cached += 1
        item.settle(known)

    def _digest(self, frame: msgspec.Raw) -> bytes:
        return blake2b(memoryview(frame), digest_size=16).digest() if self.cached_rewards else b""

    def _keep(self, item: _Item, reward: Reward) -> None:
        """Remember a reward for an equal sample. An error is not kept: it may be the machine's (a deadline)."""
        if item.digest and reward.ok:
            self._known[item.digest] = reward
            if len(self._known) > self.cached_rewards:
                self._known.popitem(last=False)

    async def _run_lane(self, lane: int) -> None:
        """Have batches judged, one after the other, by a worker that is replaced when it has ended."""
        batch: list[_Item] = []
        try:
            while True:
                if lane not in self._live:
                    self._live[lane] = await self.retry.until_back(WORKER, self._started)
                batch = await self._take()
                await self._run_batch(lane, batch)
        except BaseException as error:
            stops = isinstance(error, asyncio.CancelledError)
            self._waiting.extendleft(batch)
            self._fail_waiting(Unavailable(_STOPPING if stops else f"the reward service has failed: {error!r}"))
            raise

    async def _started(self) -> Worker:
        """Another worker; when it cannot be started and there is no other, whoever waits for one has to ask again."""
        try:
            return await Worker.start(self.memory_bytes, self.plugin_roots)
        except Unavailable as error:
            if not self._live:
                self._fail_waiting(error)
            raise

    def _fail_waiting(self, error: Unavailable) -> None:
        for item in self._waiting:
            item.request.fail(error)
        self._waiting.clear()

    async def _take(self) -> list[_Item]:
        """The next batch: a fair share of what waits, at least one sample; one whose worker died comes alone.

        Where many requests of a few samples come at a time, a few of them are gathered.
        """
        while True:
            while not self._waiting:
                self._bell.clear()
                await self._bell.wait()
            if len(self._waiting) < 2 * _LEAST and self._requests > _CROWD * self.workers:
                await asyncio.sleep(_GATHER_S)
            share = min(BATCH, max(_LEAST, -(-len(self._waiting) // self.workers)))
            batch: list[_Item] = []
            characters = 0
            while self._waiting and len(batch) < share and characters < BATCH_CHARACTERS:
                if batch and self._waiting[0].tries:
                    break
                item = self._waiting.popleft()
                if item.open:
                    batch.append(item)
                    characters += BATCH_CHARACTERS if item.tries else len(item.sample.completion)
            if batch:
                return batch

    async def _run_batch(self, lane: int, batch: list[_Item]) -> None:
        """Have `batch` judged by the lane's worker: settle what is done, give back what is not."""
        worker = self._live[lane]
        try:
            await worker.send([item.frame for item in batch])
            rewards, retire, rest = await self._answer(worker, batch)
        except WorkerDied as death:
            del self._live[lane]
            self.counts.replaced += 1
            self._blame(batch, death)
            return
        except BaseException:
            # The worker is still at this batch: its answer would be taken for the next one's.
            await self._live.pop(lane).close()
            raise
        for item, reward in zip(batch, rewards, strict=False):
            item.settle(reward)
            self._keep(item, reward)
        self._give_back(rest)
        if retire:
            self.counts.replaced += 1
            await self._live.pop(lane).close()

    async def _answer(self, worker: Worker, batch: list[_Item]) -> tuple[list[Reward], bool, Sequence[_Item]]:
        """The worker's rewards, whether it retires, and what is left to give out; raises WorkerDied.

        What was given out meanwhile is taken out of `batch`: nobody gives it out once more.
        """
        sent = time.monotonic()
        receiving = asyncio.ensure_future(worker.receive())
        try:
            await asyncio.wait({receiving}, timeout=_GRACE_S)
            if not receiving.done():
                end = worker.progress[0] + 1 or len(batch)  # what lies behind its sample goes to other workers
                self._give_back(batch[end:])
                del batch[end:]
            while not receiving.done():
                await asyncio.wait({receiving}, timeout=_LOOK_S)
                place, since = worker.progress
                late = batch[max(place, 0)].sample.deadline_s
                if not receiving.done() and time.monotonic() - (since if place >= 0 else sent) > late:
                    await worker.close()
                    raise WorkerDied(place, f"did not finish within its deadline of {late:g} s")
        finally:
            if not receiving.done():
                receiving.cancel()
                await asyncio.wait({receiving})
        reply = receiving.result()
        return reply.rewards, reply.retire, batch[len(reply.rewards) :]

    def _blame(self, batch: Sequence[_Item], death: WorkerDied) -> None:
        """The sample that the worker was at is an error; the others are given out again.

        Where it had begun none, nobody is to blame at first; from the second time on it is the sample that comes alone.
        """
        guilty = batch[death.place] if 0 <= death.place < len(batch) else None
        if guilty is None:
            for item in batch:
                item.tries += 1
            guilty = batch[0] if batch[0].tries > 2 else None
        if guilty is not None:
            guilty.settle(failed(f"verifier {guilty.sample.spec.verifier!r} or its worker {death.reason}"))
        self._give_back([item for item in batch if item.open])

    def _give_back(self, items: Sequence[_Item]) -> None:
        if items:
            self._waiting.extendleft(reversed(items))
            self._bell.set()
