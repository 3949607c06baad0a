"""`triune job watch` (and `submit --watch`): the command ends as its job has ended."""

from typing import Any

import pytest
from typer.testing import CliRunner

from triune.cli import app
from triune.cli import jobs as commands

NO_STEP = "the job has no training step: no group of its order can be trained on: sums: 3 bad-sample"
GROUPS = {"published": 3, "trained": 0, "void": 3, "duplicates": 0}


class EndedJob:
    """The API once the job is over and on file."""

    def __init__(self, state: str, error: str) -> None:
        report = {"groups": GROUPS, "staleness": {"max": 0, "mean": 0.0, "bound": 0}, "sources": {}, "latest": {}}
        self.details = {"job_id": "j", "state": state, "step": 0, "total_steps": 2, "error": error}
        self.details |= {"on_file": True, "reading_error": "", "report": report}

    def get(self, path: str) -> dict[str, Any]:
        return self.details if path == "/v1/jobs/j" else {"replicas": []}


@pytest.mark.parametrize(
    ("state", "error", "code"), [("done", "", 0), ("stopped", "", 1), ("failed", NO_STEP, 1)], ids=str
)
def test_the_command_fails_unless_the_job_is_done(
    monkeypatch: pytest.MonkeyPatch, state: str, error: str, code: int
) -> None:
    monkeypatch.setattr(commands, "Api", lambda settings: EndedJob(state, error))
    result = CliRunner().invoke(app, ["job", "watch", "j", "--json"])
    assert result.exit_code == code
    assert error in result.output
