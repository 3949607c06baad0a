"""`triune job watch` (and `submit --watch`): the command ends as its job has ended."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from triune.cli import app
from triune.cli.jobs import submit, watch

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

    def jobs(self) -> Iterator[dict[str, Any]]:
        yield self.details

    def validate(self, text: str) -> dict[str, Any]:
        return {"warnings": []}

    def submit(self, text: str) -> dict[str, Any]:
        return {"job_id": "j", "state": "queued"}


@pytest.mark.parametrize("command", ["watch", "submit"])
@pytest.mark.parametrize(
    ("state", "error", "code"), [("done", "", 0), ("stopped", "", 1), ("failed", NO_STEP, 1)], ids=str
)
def test_the_command_fails_unless_the_job_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, error: str, code: int, command: str
) -> None:
    for module in (submit, watch):
        monkeypatch.setattr(module, "Api", lambda settings: EndedJob(state, error))
    file = tmp_path / "job.toml"
    file.write_text('model = "m"\ntotal_steps = 2\n[data]\ntrain = ["t.parquet"]\n')
    arguments = ["submit", str(file), "--watch"] if command == "submit" else ["watch", "j"]
    result = CliRunner().invoke(app, ["job", *arguments, "--json"])
    assert result.exit_code == code
    assert error in result.output
