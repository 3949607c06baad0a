"""A hand-written engine, and the ports of a replica over the in-memory bus."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from services.rollout.engine import PreparedPrompt, never
from shared.blobs.store import BlobStore
from shared.blobs.weights import WeightsAt
from shared.bus.memory import MemoryBus, MemoryServer
from shared.errors import BadSample, Corrupt, TriuneError
from shared.jobs.record import JobRecord, JobStore
from shared.jobs.spec import Data, JobSpec, Rollout
from shared.ledger.memory import MemoryLedger
from shared.messages import Completion, Prompt, pack_floats, pack_ints
from shared.runtime.settings import Settings
from shared.service import Ports


class FakeEngine:
    """Answers each prompt with its own text, `n` times; `bad` can't be prepared, `poison` ends the process.

    `batches` holds (version, texts) of each call. While `gate` is not set, generation waits, until it is told to stop.
    """

    patch_size = 14

    def __init__(self) -> None:
        self.version = -1
        self.loads: list[tuple[int, list[str]]] = []  # (version, tensors)
        self.batches: list[tuple[int, list[str]]] = []
        self.fault: TriuneError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self._texts: dict[int, str] = {}

    def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt:
        text = prompt.turns[0].content
        if "bad" in text:
            raise BadSample("the text says bad")
        prepared = PreparedPrompt(np.array([1, 2], dtype=np.int32), None, [], prompt.sampling)
        self._texts[id(prepared)] = text
        return prepared

    def generate(
        self, prompts: Sequence[PreparedPrompt], stop: Callable[[], bool] = never
    ) -> Iterator[tuple[int, list[Completion]]]:
        texts = [self._texts.pop(id(prompt)) for prompt in prompts]
        self.batches.append((self.version, texts))
        self.started.set()
        if self.fault is not None:
            raise self.fault
        if "poison" in texts:
            raise Corrupt("the process ends")
        while not self.gate.wait(0.01):
            if stop():
                return
        for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            one = Completion(
                token_ids=pack_ints([7]), log_probs=pack_floats([-0.5]), text=text, finish="stop",
                versions=[(self.version, 1)],
            )  # fmt: skip
            yield index, [one] * prompt.sampling.n

    def load(self, at: WeightsAt) -> None:
        self.version = at.version
        self.loads.append((at.version, sorted(at.changed)))


def make_ports(folder: Path, server: MemoryServer | None = None) -> Ports:
    """Ports over a fresh in-memory bus, or another handle on `server`; blobs and weights lie in `folder`."""
    bus = MemoryBus(server or MemoryServer())
    blobs = BlobStore((folder / "blobs").as_uri())
    return Ports(Settings(replica="replica-1", runs=folder), bus, MemoryLedger(), blobs, JobStore(bus))


def make_record(**rollout: float) -> JobRecord:
    """A running job."""
    spec = JobSpec(model="unused", total_steps=3, data=Data(train=["unused"]), rollout=Rollout(**rollout))
    return JobRecord(id="job", spec=spec, state="running", created_at=0.0)
