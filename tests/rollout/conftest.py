"""A tiny model folder with random weights, made once."""

from pathlib import Path

import pytest
import torch

from services.rollout.engines.hf import HfEngine
from tests.rollout.helpers import LIMITS
from triune.demo.tiny_vlm import make_tiny_vlm


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = ["user", "assistant", "How many red circles are there?", "Where is the blue square?"] * 4
    return make_tiny_vlm(tmp_path_factory.mktemp("tiny"), texts, seed=1)


@pytest.fixture
def engine(model_folder: Path) -> HfEngine:
    return HfEngine.open(str(model_folder), dtype="float32", limits=LIMITS)
