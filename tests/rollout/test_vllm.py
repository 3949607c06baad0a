"""The vllm engine on a CPU, its own processes and all; `make test-vllm` runs this in an environment that has vLLM."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
import torch

from services.rollout.app import open_vllm
from services.rollout.engine import Engine
from shared.blobs.weights import WeightsAt
from shared.errors import BadSample, Unavailable, UserError
from shared.jobs.document import parse_job
from shared.jobs.spec import JobSpec
from shared.models.hf.loading import open_model
from tests.fakes import wait_gone
from tests.published import weights_at
from tests.rollout.contract import EngineContract, Plain, case, sample
from tests.rollout.helpers import LIMITS, make_prompt, png
from tests.rollout.tiny import make_wide_qwen3_vl, make_wide_vlm

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1800),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),
]


def spec_of(folder: Path) -> JobSpec:
    return parse_job(
        {
            "model": str(folder),
            "total_steps": 1,
            "data": {"train": ["unused"], "max_prompt_tokens": LIMITS.max_prompt_tokens},
            "sampling": {"max_new_tokens": 6000},
            "rollout": {"engine": "vllm"},
        }
    )


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    if request.param == "qwen3_vl":
        return make_wide_qwen3_vl(made)
    return make_wide_vlm(
        made, ["user", "assistant", "How many red circles are there?", "Where is the blue square?"] * 4
    )


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what has nothing to do with the model."""
    return make_wide_vlm(tmp_path_factory.mktemp("one"), ["user", "assistant", "How many red circles are there?"] * 4)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(folder: Path) -> AsyncIterator[Engine]:
    engine = await open_vllm(spec_of(folder), LIMITS)
    yield engine
    await engine.aclose()


@pytest.fixture(scope="module")
def start(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> WeightsAt:
    """The folder's weights."""
    tensors = dict(open_model(str(folder), dtype=torch.float32).state_dict())
    return weights_at(tmp_path_factory.mktemp("start"), -1, tensors)


@pytest_asyncio.fixture(loop_scope="module")
async def engine(opened: Engine, start: WeightsAt) -> Engine:
    """One engine for all tests of a model, brought back to the folder's weights."""
    await opened.load(start)
    return opened


@pytest.fixture
def plain(folder: Path) -> Plain:
    return Plain(folder)


class TestVllmEngine(EngineContract):
    """See `tests.rollout.contract`."""


async def test_a_prompt_with_too_many_images_is_a_bad_sample(engine: Engine) -> None:
    with pytest.raises(BadSample, match="17 images"):
        await engine.prepare(make_prompt("<image>" * 17), [png(28, 28)] * 17)


async def test_a_model_that_vllm_cannot_load_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        await open_vllm(spec_of(tmp_path / "nowhere"), LIMITS)


PARENT = """
import asyncio, sys
from pathlib import Path
from tests.rollout.test_vllm import LIMITS, open_vllm, spec_of
async def main():
    engine = await open_vllm(spec_of(Path(sys.argv[1])), LIMITS)
    print("ready", flush=True)
    await asyncio.sleep(600)
if __name__ == "__main__":
    asyncio.run(main())
"""


def test_no_process_is_left_behind_by_a_parent_that_is_killed(one_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", one_folder], env=env, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert any(line.strip() == b"ready" for line in parent.stdout)
    children = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    assert children
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_gone(children, 300.0)


async def test_the_death_of_its_process_is_an_error_of_every_group(opened: Engine) -> None:
    """The last one of an engine. 64 completions of at most 5,000 tokens: some are still being sampled when it dies."""
    prepared = await opened.prepare(*case(0, n=64, tokens=5000))
    group = asyncio.create_task(opened.generate(prepared, key="long"))
    await asyncio.sleep(0.1)
    (core,) = [child for child in psutil.Process().children() if "EngineCore" in child.name()]
    core.send_signal(signal.SIGKILL)
    async with asyncio.timeout(300.0):
        with pytest.raises(Unavailable, match="has ended"):
            await group
        with pytest.raises(Unavailable, match="has ended"):
            await sample(opened, *case(1))
