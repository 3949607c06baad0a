"""Rows are tried as the job that will train on them asks, and counts of different tries are never mixed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import TriuneError, UserError
from shared.jobs.document import parse_job
from shared.jobs.spec import JobSpec
from triune.cli.data import tries
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


class Told:
    """An API that gives one answer after the other for a job, and does something before the last one."""

    def __init__(self, answers: list[dict[str, object]], before_last: Callable[[], object] = lambda: None) -> None:
        self.answers, self.before_last = answers, before_last
        self.posts: list[str] = []

    def get(self, path: str) -> dict[str, object]:
        if len(self.answers) == 1:
            self.before_last()
            return self.answers[0]
        return self.answers.pop(0)

    def post(self, path: str) -> None:
        self.posts.append(path)
        raise UserError("the job has ended")


DONE = {"state": "done", "error": "", "reading_error": "", "report": {}}


def test_a_job_that_ends_before_its_samples_are_written_is_waited_for_until_it_is_on_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "LOOK_S", 0.0)
    samples = tmp_path / "run" / tries.SAMPLES
    samples.parent.mkdir(parents=True)
    told = Told([DONE | {"on_file": False}, DONE | {"on_file": True}], samples.touch)
    assert tries._wait(told, "j", tmp_path / "run", tmp_path / "j.job") == samples  # type: ignore[arg-type]
    assert told.posts == ["/v1/jobs/j/stop"]


@pytest.mark.parametrize("how", [{"on_file": True}, {"on_file": False, "reading_error": "its log was purged"}])
def test_a_job_that_is_on_file_or_cannot_be_read_has_no_samples(tmp_path: Path, how: dict[str, object]) -> None:
    (tmp_path / "j.job").touch()
    with pytest.raises(TriuneError, match="job j is done without its evaluation"):
        tries._wait(Told([DONE | how]), "j", tmp_path / "run", tmp_path / "j.job")  # type: ignore[arg-type]
    assert not (tmp_path / "j.job").exists()
