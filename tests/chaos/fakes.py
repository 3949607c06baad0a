"""Engines that compute nothing, in the real services: what is left is the flow (`tests.chaos.soak`)."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import services.learner.app
import services.rollout.app
from services.learner.attention.batch import Ready
from services.learner.engine import StepResult, StepWork
from services.rollout.engine import Loaded, PreparedPrompt, Traits
from shared.messages import Completion, Prompt, Scored, pack_floats, pack_ints

TOKENS = 32


class FakeRollout:
    """Answers every prompt at once with `TOKENS` tokens that its ordinal's seed draws."""

    traits = Traits(room=256, in_flight_updates=False)
    patch_size = 14

    def __init__(self) -> None:
        self.version = -1

    async def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt:
        return PreparedPrompt(np.arange(16, dtype=np.int32), None, [(1, 4, 4)] * len(images), prompt.sampling)

    async def generate(self, prepared: PreparedPrompt, *, key: str) -> list[Completion]:
        await asyncio.sleep(0)
        draw = np.random.default_rng(prepared.sampling.seed)
        return [self._completion(draw.integers(0, 500, TOKENS)) for _ in range(prepared.sampling.n)]

    def _completion(self, ids: np.ndarray) -> Completion:
        logs = pack_floats(np.full(TOKENS, -1.0, dtype=np.float32))
        return Completion(pack_ints(ids), logs, " ".join(map(str, ids)), "length", [(self.version, TOKENS)])

    async def load(self, at: object, *, mode: str = "drain") -> Loaded:
        self.version = at.version  # type: ignore[attr-defined]
        return Loaded(self.version, 0, 0.0, 0)

    async def aclose(self) -> None:
        return


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
        tensors = {"w": self._weight.clone(), **({"frozen": torch.ones(1)} if scope == "all" else {})}
        for name, tensor in tensors.items():
            sink.put(name, tensor)  # type: ignore[attr-defined]

    def save(self, folder: Path) -> None:
        (folder / "weight.json").write_text(json.dumps(self._weight.tolist()))

    def close(self) -> None:
        return


async def open_fake(*_: object, **__: object) -> FakeRollout:
    return FakeRollout()


def install() -> None:
    """Give rollout and learner these engines."""
    services.rollout.app.open_engine = open_fake  # type: ignore[assignment]
    services.learner.app.TorchEngine = FakeLearner  # type: ignore[assignment,misc]
    services.learner.app.GroupIngest = FakeIngest  # type: ignore[assignment,misc]
