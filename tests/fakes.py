"""Stand-ins and small messages that several tests need."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import psutil
from blake3 import blake3

from shared.errors import BlobMissing, Unavailable
from shared.messages import (
    BlobRef,
    ChatTurn,
    Completed,
    Completion,
    Kind,
    Prompt,
    Reward,
    RewardSpec,
    Sampling,
    Scored,
    Voided,
    message_id,
    pack_floats,
    pack_ints,
)


class FrozenClock:
    """A clock that moves only when it is told to; seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def make_prompt(
    ordinal: int = 0, *, job: str = "job", kind: Kind = "train", n: int = 2, text: str = "2 + 2?"
) -> Prompt:
    """A prompt without images, of source `sums`."""
    return Prompt(
        job=job,
        kind=kind,
        ordinal=ordinal,
        source="sums",
        task="math",
        sample_id=f"sums-{ordinal}",
        turns=[ChatTurn(role="user", content=text)],
        images=[],
        reward=RewardSpec(verifier="mathverify", answer="4", ground_truth="4"),
        sampling=Sampling(n=n, temperature=1.0, max_new_tokens=8, seed=ordinal),
        version=0 if kind == "eval" else None,
    )


def make_completed(ordinal: int = 0, *, job: str = "job", kind: Kind = "train", tokens: int = 3) -> Completed:
    """A group of two completions of `tokens` tokens, all sampled by version 0."""
    completion = Completion(
        token_ids=pack_ints(np.arange(tokens)),
        log_probs=pack_floats(np.full(tokens, -0.5)),
        text="4",
        finish="stop",
        versions=[(0, tokens)],
    )
    return Completed(
        prompt=make_prompt(ordinal, job=job, kind=kind),
        completions=[completion, completion],
        prompt_ids=pack_ints([1, 2, 3]),
        image_grid_thw=[],
        patch_size=14,
        replica="rollout-0",
        started_at=1.0,
        finished_at=2.0,
    )


def make_scored(ordinal: int = 0, *, job: str = "job", kind: Kind = "train", tokens: int = 3) -> Scored:
    """The group of `make_completed`, one answer right and one wrong."""
    rewards = [Reward(status="ok", final=final, accuracy=final, format=final) for final in (1.0, 0.0)]
    return Scored(
        group=make_completed(ordinal, job=job, kind=kind, tokens=tokens),
        rewards=rewards,
        replica="reward-0",
        started_at=2.0,
        finished_at=3.0,
    )


def make_voided(ordinal: int = 0, *, job: str = "job", kind: Kind = "train") -> Voided:
    """The group at `ordinal`, given up by data."""
    return Voided(
        job=job,
        kind=kind,
        ordinal=ordinal,
        source="sums",
        task="math",
        reason="bad-sample",
        detail="the image is empty",
        stage="data",
    )


def make_id(job: str, ordinal: int, kind: Kind = "train") -> str:
    """The id of a first attempt."""
    return message_id(job, kind, None, ordinal)


class AwayBlobs:
    """A blob store in memory whose first `tries` calls find nobody at home."""

    def __init__(self, tries: int = 0) -> None:
        self.tries = tries
        self.held: dict[str, bytes] = {}

    def of(self, owner: str) -> "AwayBlobs":
        return self

    def put(self, data: bytes | memoryview) -> BlobRef:
        self._knock()
        ref = BlobRef(digest=blake3(data).hexdigest(), size=len(data))
        self.held[ref.digest] = bytes(data)
        return ref

    def get(self, ref: BlobRef) -> bytes:
        self._knock()
        if ref.digest not in self.held:
            raise BlobMissing(f"blob {ref.digest} is not there")
        return self.held[ref.digest]

    def has(self, ref: BlobRef) -> bool:
        self._knock()
        return ref.digest in self.held

    def delete(self, ref: BlobRef) -> None:
        self._knock()
        self.held.pop(ref.digest, None)

    def _knock(self) -> None:
        if self.tries > 0:
            self.tries -= 1
            raise Unavailable("the blob store does not answer")


async def eventually(condition: Callable[[], Awaitable[bool]], limit_s: float = 60.0) -> None:
    """Return once `condition()` holds; fails after `limit_s`."""
    until = time.monotonic() + limit_s
    while not await condition():
        assert time.monotonic() < until, f"the condition did not hold within {limit_s} s"
        await asyncio.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether the process is there and not a zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_gone(pids: Sequence[int], limit_s: float = 10.0) -> None:
    """Return once none of the processes runs; fails after `limit_s`."""
    until = time.monotonic() + limit_s
    while any(map(runs, pids)):
        assert time.monotonic() < until, f"of {pids} some are left after {limit_s} s"
        time.sleep(0.01)
