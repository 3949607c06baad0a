"""An engine whose log-probs are not the model's own refuses to start."""

from pathlib import Path
from typing import Any

import pytest
import torch

from services.learner.engines.torch import TorchEngine
from services.learner.intake.ingest import GroupIngest
from services.rollout.engine import PromptLimits
from services.rollout.engines.hf import HfEngine
from shared.errors import BadJob
from shared.jobs.document import parse_job
from shared.models.hf import forward
from tests.models.tiny import make

LIMITS = PromptLimits(min_image_pixels=0, max_image_pixels=2048 * 2048, max_prompt_tokens=2048)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make("qwen3_vl", tmp_path_factory.mktemp("qwen3_vl"))


def open_learner(folder: Path) -> dict[str, object]:
    spec = parse_job({"model": str(folder), "total_steps": 1, "data": {"train": ["x"]}})
    return TorchEngine(GroupIngest(spec).pixels).open(spec, None)


def test_both_engines_say_how_near_they_are(folder: Path) -> None:
    assert float(str(open_learner(folder)["self_check"])) < 1e-4
    assert HfEngine.open(str(folder), dtype="float32", limits=LIMITS).self_check < 1e-4


def test_a_learner_that_drops_deepstack_does_not_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = forward.image_features

    def first_level(*arguments: Any) -> list[torch.Tensor]:
        return [levels[:1] for levels in whole(*arguments)]

    monkeypatch.setattr(forward, "image_features", first_level)
    with pytest.raises(BadJob, match=r"learner's log-probs .* differ .* expected at most 0.001 in float32"):
        open_learner(folder)


def test_a_sampler_with_positions_of_its_own_does_not_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = forward.position_ids
    monkeypatch.setattr("services.rollout.engines.hf.position_ids", lambda positions: whole(positions) * 2)
    with pytest.raises(BadJob, match="sampler's log-probs"):
        HfEngine.open(str(folder), dtype="float32", limits=LIMITS)
