"""A hand-written engine, and the ports of a replica over the in-memory bus."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.rollout.engine import Facts, Loaded, Prepared, Traits, UpdateMode
from shared.blobs.store import BlobStore
from shared.blobs.weights import WeightsAt
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.errors import BadSample, Corrupt, TriuneError
from shared.jobs.record import JobRecord, JobStore
from shared.jobs.spec import Algorithm, Data, JobSpec, Rollout
from shared.ledger.memory import MemoryLedger
from shared.messages import Completion, Prompt, Sampling, pack_floats, pack_ints
from shared.runtime.settings import Settings
from shared.service import Ports


@dataclass(frozen=True)
class FakePrepared:
    text: str
    sampling: Sampling
    ids: NDArray[np.int32] = field(default_factory=lambda: np.array([1, 2], dtype=np.int32))
    image_grid_thw: list[tuple[int, int, int]] = field(default_factory=list)
    box_convention: str = ""


class FakeEngine:
    """Answers each prompt with its own text, `n` times, one token; `bad` can't be prepared, `poison` ends the process.

    `groups` holds (version, text) of each group as it starts. While `gate` is not set, generation waits.
    """

    patch_size = 14
    facts: Facts = {"engine": "fake", "self_check": 1e-6}

    def __init__(self, room: int = 64, in_flight_updates: bool = False) -> None:
        self.traits = Traits(room, in_flight_updates)
        self.version = -1
        self.loads: list[tuple[int, str]] = []
        self.groups: list[tuple[int, str]] = []
        self.most_together = 0
        self.aborted: list[str] = []
        self.is_closed = False
        self.sleeps = 0
        self.fault: TriuneError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.running: set[str] = set()

    async def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> FakePrepared:
        text = prompt.turns[0].content
        if "bad" in text:
            raise BadSample("the text says bad")
        return FakePrepared(text, prompt.sampling)

    async def generate(self, prepared: Prepared, *, key: str) -> list[Completion]:
        assert isinstance(prepared, FakePrepared) and key not in self.running
        self.running.add(key)
        self.most_together = max(self.most_together, len(self.running))
        started = self.version
        self.groups.append((started, prepared.text))
        try:
            await asyncio.sleep(0)
            if self.fault is not None:
                raise self.fault
            if prepared.text == "poison":
                raise Corrupt("the process ends")
            await self.gate.wait()
        except asyncio.CancelledError:
            self.aborted.append(prepared.text)
            raise
        finally:
            self.running.discard(key)
        runs = [(started, 1)] if started == self.version else [(started, 1), (self.version, 1)]
        count = len(runs)
        one = Completion(
            token_ids=pack_ints([7] * count), log_probs=pack_floats([-0.5] * count), text=prepared.text, finish="stop",
            versions=runs,
        )  # fmt: skip
        return [one] * prepared.sampling.n

    async def load(self, at: WeightsAt, *, mode: UpdateMode = "drain") -> Loaded:
        assert mode == "keep" or not self.running
        self.version = at.version
        self.loads.append((at.version, mode))
        return Loaded(at.version, 0.0, len(self.running))

    async def sleep(self) -> None:
        assert not self.running
        self.version = -1
        self.sleeps += 1

    async def aclose(self) -> None:
        self.is_closed = True


def make_ports(folder: Path, server: MemoryServer | None = None) -> Ports:
    """Ports over a fresh in-memory bus, or another handle on `server`; blobs and weights lie in `folder`."""
    bus = MemoryBus(server or MemoryServer())
    blobs = BlobStore((folder / "blobs").as_uri())
    return Ports(Settings(replica="replica-1", runs=folder), bus, MemoryLedger(), blobs, JobStore(bus))


def make_record(max_staleness: int = 0, **rollout: Any) -> JobRecord:
    """A running job of two completions a prompt."""
    algorithm = Algorithm(samples_per_prompt=2, max_staleness=max_staleness)
    data = Data(train=["unused"])
    spec = JobSpec(model="unused", total_steps=3, data=data, algorithm=algorithm, rollout=Rollout(**rollout))
    return JobRecord(id="job", spec=spec, state="running", created_at=0.0)
