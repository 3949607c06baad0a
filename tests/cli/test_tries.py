"""Rows are tried as the job that will train on them asks, and counts of different tries are never mixed."""

from pathlib import Path

import pytest

from shared.errors import UserError
from shared.jobs.spec import JobSpec, parse_job
from triune.cli.data.tries import Tries, _agree, _document, as_job


def own(**sections: object) -> JobSpec:
    return parse_job({"model": "theirs", "total_steps": 7, "data": {"train": ["x"], "cot_prompts": False}} | sections)


def test_tries_have_the_prompts_sampling_and_rewards_of_the_job() -> None:
    spec = own(
        sampling={"max_new_tokens": 64, "temperature": 0.7},
        reward={"dialect": "v-triune"},
        rollout={"dtype": "bfloat16"},
    )
    asks = as_job(spec, None, {"temperature": None, "max_new_tokens": None})
    assert asks is not None
    job = parse_job(_document(Tries(asks, 4, 0.5), ["shard"]))
    assert (job.model, job.data.cot_prompts, job.rollout.dtype) == ("theirs", False, "bfloat16")
    assert (job.sampling.max_new_tokens, job.evaluation.temperature, job.evaluation.samples_per_prompt) == (64, 0.7, 4)
    assert (job.reward.dialect, job.reward.iou_threshold) == ("v-triune", 0.5)
    assert job.data.train == job.data.held_out == ["shard"]


def test_what_the_command_line_names_goes_before_the_job() -> None:
    asks = as_job(own(), "other", {"temperature": 0.5, "max_new_tokens": 9})
    assert asks is not None
    assert (asks.model, asks.sampling.temperature, asks.sampling.max_new_tokens) == ("other", 0.5, 9)
    assert asks.data.cot_prompts is False


def test_without_a_model_there_are_no_tries() -> None:
    assert as_job(None, None, {}) is None
    alone = as_job(None, "m", {"temperature": None})
    assert alone is not None and (alone.model, alone.sampling.temperature, alone.data.cot_prompts) == ("m", 1.0, True)


def test_counts_of_other_tries_are_refused(tmp_path: Path) -> None:
    _agree(tmp_path, Tries(own(), 4, 0.5))
    _agree(tmp_path, Tries(own(data={"train": ["elsewhere"], "cot_prompts": False}), 4, 0.5))
    with pytest.raises(UserError, match=r"tries with data.cot_prompts = False, not True: name another --out"):
        _agree(tmp_path, Tries(own(data={"train": ["x"]}), 4, 0.5))
    with pytest.raises(UserError, match=r"tries with --right = 0.5, not 0.9"):
        _agree(tmp_path, Tries(own(), 4, 0.9))
