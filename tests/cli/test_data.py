"""`triune data make` and `triune data check` as a user calls them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.data.rows import broken_row, math_row, write
from triune.cli.data import app

run = CliRunner()


def test_a_drawn_data_set_checks_as_good(tmp_path: Path) -> None:
    made = run.invoke(app, ["make", str(tmp_path), "--train", "5", "--held-out", "3"])
    assert made.exit_code == 0, made.output
    assert "8 tasks" in made.stdout
    checked = run.invoke(app, ["check", str(tmp_path)])
    assert checked.exit_code == 0
    assert "64 rows in 16 readable files: all good" in checked.stderr


def test_one_line_a_bad_row_or_file_and_exit_code_two(tmp_path: Path) -> None:
    good = write(tmp_path / "rows.parquet", [math_row(0), broken_row(1), math_row(2)])
    (tmp_path / "text[1].parquet").write_text("a,b\n")
    result = run.invoke(app, ["check", str(tmp_path)])
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path}/text[1].parquet: cannot be read as parquet")
    assert lines[1] == f"{good}: row 1: image 0: the image has no bytes"
    assert len(lines) == 2
    assert "3 rows in 1 readable files: 2 problems" in result.stderr


def test_json_lines_hold_file_row_and_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", [broken_row(0)])
    result = run.invoke(app, ["check", str(path), "--json"])
    assert result.exit_code == 2
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"file": str(path), "row": 0, "reason": "image 0: the image has no bytes"},
        {"files": 1, "rows": 1, "problems": 1},
    ]


@pytest.mark.parametrize("command", [["make"], ["check"]])
def test_a_place_that_cannot_be_used_is_one_sentence(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").write_text("")
    result = run.invoke(app, [*command, str(tmp_path / "file" / "inside")])
    assert result.exit_code in (1, 2) and "Traceback" not in result.output
    assert len([line for line in result.output.splitlines() if str(tmp_path) in line]) == 1
