"""`triune job list`: a line a job, and why one failed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from triune.cli import app
from triune.cli.jobs import listing

NO_STEP = (
    "the job has no training step:\nno group of its order can be trained on: sums: 3 bad-sample" + ", and so on" * 100
)


class Jobs:
    """The API with two jobs."""

    def jobs(self) -> Iterator[dict[str, Any]]:
        numbers = {"step": 0, "total_steps": 2}
        yield {"job_id": "demo-2", "state": "failed", "error": NO_STEP, **numbers}
        yield {"job_id": "demo-1", "state": "running", "error": "", **numbers}


@pytest.fixture(autouse=True)
def api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "Api", lambda settings: Jobs())


def listed(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["job", "list", *words])
    return result.exit_code, result.output


def test_a_failed_job_is_listed_with_the_beginning_of_its_reason() -> None:
    code, text = listed()
    heading, running, failed = text.splitlines()
    assert (code, heading.split()) == (0, ["job", "state", "step", "reason"])
    assert running.split() == ["demo-1", "running", "0/2"]
    assert " ".join(failed.split()).startswith("demo-2 failed 0/2 the job has no training step: no group")
    assert len(failed) <= listing.out.width and failed.rstrip().endswith("…")
    assert json.loads(listed("--json")[1].splitlines()[1])["error"] == NO_STEP  # whole


def test_a_state_that_is_none_is_refused_with_those_that_are() -> None:
    expected = "expected one of queued, running, paused, stopping, stopped, done, failed"
    assert listed("--state", "runing") == (2, f"error: --state is 'runing'; {expected}\n")
    assert listed("--state", "paused") == (0, "no job is paused\n")
