"""The tiny model and the drawn data that the whole loop trains on."""

from pathlib import Path

import pytest

from triune.demo.dataset import make
from triune.demo.warm_start import Recipe, Stage, warm_start


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    short = Stage(steps=4, learning_rate=1e-3, wrong_share=0.0, warmup_steps=0)
    return warm_start(tmp_path_factory.mktemp("model"), recipe=Recipe(clean=short, mixed=short))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make(folder, train_per_task=24, held_out_per_task=4)
    return folder
