"""Engines that compute nothing, in the real services: what is left is the flow (`tests.chaos.soak`)."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

import services.learner.app
from services.learner.attention.batch import Ready
from services.learner.engine import StepResult, StepWork
from services.rollout.engine import PreparedPrompt
from services.rollout.engines.feed import Feed
from services.rollout.engines.hf import HfEngine
from shared.messages import Completion, Prompt, Scored, pack_floats, pack_ints

TOKENS = 32


class FakeRollout:
    """Answers every prompt at once with `TOKENS` tokens that its seed draws."""

    patch_size = 14
    facts: ClassVar = {"engine": "fake"}

    def __init__(self) -> None:
        self.version = -1

    def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt:
        return PreparedPrompt(np.arange(16, dtype=np.int32), [], (), prompt.sampling)

    def stream(self, feed: Feed) -> Iterator[tuple[int, list[Completion]]]:
        taken = 0
        while prompts := feed.take(0):
            dropped = feed.cancelled()
            for number, prompt in enumerate(prompts, taken):
                draw = np.random.default_rng(prompt.sampling.seed)
                if number not in dropped:
                    yield number, [self._completion(draw.integers(0, 500, TOKENS)) for _ in range(prompt.sampling.n)]
            taken += len(prompts)

    def _completion(self, ids: np.ndarray) -> Completion:
        logs = pack_floats(np.full(TOKENS, -1.0, dtype=np.float32))
        return Completion(pack_ints(ids), logs, " ".join(map(str, ids)), "length", [(self.version, TOKENS)])

    def load(self, at: object) -> None:
        self.version = at.version  # type: ignore[attr-defined]


class FakeIngest:
    """Arrays without a tokenizer."""

    pixels = None

    def __init__(self, *_: object) -> None:
        pass

    def ready(self, group: Scored, image_bytes: Sequence[bytes]) -> Ready:
        finals = np.array([reward.final for reward in group.rewards])
        nothing = np.zeros(0, dtype=np.int64)
        return Ready(group, nothing, np.zeros((3, 0), dtype=np.int64), 0, finals - finals.mean(), (), ())


class FakeLearner:
    """One weight that counts the groups."""

    def __init__(self, *_: object) -> None:
        self._weight = torch.zeros(1)

    def open(self, spec: object, checkpoint: Path | None) -> dict[str, object]:
        if checkpoint is not None:
            self._weight = torch.tensor(json.loads((checkpoint / "weight.json").read_text()))
        return {"engine": "fake"}

    def step(self, work: StepWork) -> StepResult:
        self._weight = self._weight + len(work.groups)
        return StepResult({"loss": 0.0}, {}, TOKENS, 1, 0)

    def export(self, sink: object, *, scope: str) -> None:
        tensors = {"w": self._weight} if scope == "trained" else {"frozen": torch.ones(1)}
        sink.begin({name: (one.dtype, tuple(one.shape)) for name, one in tensors.items()})  # type: ignore[attr-defined]
        for name, tensor in tensors.items():
            sink.put(name, tensor)  # type: ignore[attr-defined]

    def save(self, folder: Path) -> None:
        (folder / "weight.json").write_text(json.dumps(self._weight.tolist()))

    def close(self) -> None:
        return


def install() -> None:
    """Give rollout and learner these engines."""
    HfEngine.open = lambda *_, **__: FakeRollout()  # type: ignore[assignment]
    services.learner.app.TorchEngine = FakeLearner  # type: ignore[assignment,misc]
    services.learner.app.GroupIngest = FakeIngest  # type: ignore[assignment,misc]
