"""Which engine a replica opens, and what it says when it cannot."""

import importlib.util
from importlib.machinery import ModuleSpec

import pytest
import torch

from services.rollout.app import engine_of, open_engine
from services.rollout.config import RolloutConfig
from services.rollout.engines.vllm import launch
from shared.errors import UserError
from shared.jobs.document import parse_job
from shared.jobs.spec import JobSpec


def job(engine: str) -> JobSpec:
    return parse_job({"model": "m", "total_steps": 1, "data": {"train": ["x"]}, "rollout": {"engine": engine}})


@pytest.mark.parametrize(("has_gpu", "expected"), [(True, "vllm"), (False, "hf")])
def test_a_job_that_leaves_it_open_gets_vllm_where_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert engine_of(job("auto")) == expected
    assert engine_of(job("hf")) == "hf"
    assert engine_of(job("vllm")) == "vllm"


def test_vllm_frees_nothing_on_a_cpu_and_refuses_to_share_a_device_there() -> None:
    shared = parse_job(
        {"model": "m", "total_steps": 1, "data": {"train": ["x"]}, "rollout": {"engine": "vllm", "shares_device": True}}
    )
    with pytest.raises(UserError, match=r"vLLM frees nothing on a CPU; set rollout.engine = 'hf'"):
        launch.check_device(shared, on_gpu=False)
    launch.check_device(shared, on_gpu=True)
    assert launch.arguments(shared, [], on_gpu=True)["enable_sleep_mode"] is True


async def test_a_job_that_names_vllm_where_it_is_not_installed_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec

    def without_vllm(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "vllm" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_vllm)
    with pytest.raises(UserError, match=r"vllm, which is not installed here: install the extra 'vllm' .* or set"):
        await open_engine(job("vllm"), RolloutConfig())
