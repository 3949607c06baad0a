"""A checkpoint leaves its run as a folder of its own."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from triune.cli import app

runner = CliRunner()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "demo-1"
    for step in (10, 20):
        model = run / "checkpoints" / f"step-{step:06}" / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps({"step": step}))
    (run / "job.toml").write_text('name = "demo"\n')
    sources = {"chart": {"n": 16, "before": 0.25, "after": None}}
    (run / "report.json").write_text(json.dumps({"state": "done", "steps": 20, "sources": sources}))
    return tmp_path / "runs"


def export(runs: Path, *words: str) -> tuple[int, str]:
    result = runner.invoke(app, ["export", *words], env={"TRIUNE_RUNS": str(runs)})
    return result.exit_code, result.output.replace("\n", " ")


def test_the_wanted_step_is_copied_with_a_card(runs: Path, tmp_path: Path) -> None:
    assert export(runs, "demo-1", str(tmp_path / "out"), "--step", "10")[0] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"step": 10}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# demo-1, step 10" in card
    assert "| chart | 16 | 0.250 | – |" in card
    assert 'name = "demo"' in card


def test_without_a_step_it_is_the_last_one(runs: Path, tmp_path: Path) -> None:
    export(runs, "demo-1", str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"step": 20}


def test_what_is_not_there_is_one_sentence(runs: Path, tmp_path: Path) -> None:
    code, text = export(runs, "demo-1", str(tmp_path / "out"), "--step", "15")
    assert (code, "has no checkpoint of step 15; it has 10, 20" in text) == (2, True)
    code, text = export(runs, "other", str(tmp_path / "out"))
    assert (code, "there is no run folder" in text) == (2, True)
    code, text = export(runs, "demo-1", str(runs))
    assert (code, "exists; name another folder" in text) == (2, True)
