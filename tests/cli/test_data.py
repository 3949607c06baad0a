"""`triune data make` and `triune data check` as a user calls them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.utils import logging as hub_logging
from typer.testing import CliRunner, Result

from shared.errors import BadJob
from shared.jobs.document import parse_job
from tests.data.rows import boxes_row, broken_row, math_row, png, write
from triune.cli.data import app
from triune.cli.data.tokens import for_workers
from triune.demo.tiny_vlm import make_tiny_vlm

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


def test_a_truth_that_its_own_verifier_cannot_read_is_a_bad_row(tmp_path: Path) -> None:
    rows = [math_row(0), math_row(1, verifier="table", ground_truth="no table"), math_row(2, ground_truth="1 and 2")]
    good = write(tmp_path / "rows.parquet", rows)
    result = run.invoke(app, ["check", str(good), "--workers", "1"])
    assert result.exit_code == 2 and result.stdout.startswith(f"{good}: row 1: ")
    assert "no table" in result.stdout and len(result.stdout.splitlines()) == 1
    job = tmp_path / "job.toml"
    job.write_text(f'model = "m"\ntotal_steps = 1\n[data]\ntrain = ["{good}"]\n[reward]\ndialect = "v-triune"\n')
    result = run.invoke(app, ["check", "--job", str(job), "--no-tokens", "--workers", "1"])
    assert [line.split(": ")[1] for line in result.stdout.splitlines()] == ["row 1", "row 2"]
    assert "scores 0 against itself by verifier 'mathverify'" in result.stdout
    assert run.invoke(app, ["check", str(good), "--fast", "--workers", "1"]).exit_code == 0


def test_what_is_wrong_with_every_row_of_a_file_is_one_line_with_their_number(tmp_path: Path) -> None:
    alike = write(tmp_path / "a.parquet", [math_row(n, verifier="oracle") for n in range(9)], group=4)
    mixed = write(tmp_path / "b.parquet", [math_row(n, verifier="oracle") for n in range(5)] + [math_row(5)], group=4)
    result = run.invoke(app, ["check", str(alike), str(mixed), "--workers", "1"])
    first, *others = result.stdout.splitlines()
    assert first.startswith(f"{alike}: each of 9 rows: verifier is 'oracle'; ")
    assert [line.split(": ")[:2] for line in others] == [[str(mixed), f"row {n}"] for n in range(5)]
    assert "14 problems" in result.stderr
    told = run.invoke(app, ["check", str(alike), "--workers", "1", "--json"])
    assert len(told.stdout.splitlines()) == 9 + 1


def test_json_lines_hold_file_row_and_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", [broken_row(0)])
    result = run.invoke(app, ["check", str(path), "--json"])
    assert result.exit_code == 2
    problem, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert problem == {"file": str(path), "row": 0, "reason": "image 0: the image has no bytes"}
    assert summary == {
        "files": 1,
        "rows": 1,
        "rows_checked": 1,
        "problems": 1,
        "sources": {"numbers": {"rows": 0, "bad": 1, "verifiers": {}}},
        "duplicates": {"exact": [], "near": []},
    }


def test_a_check_tells_what_each_source_holds_and_what_is_there_twice(tmp_path: Path) -> None:
    rows = [math_row(0), math_row(1) | {"images": [{"bytes": png(56, 28), "path": "b.png"}]}, math_row(0), boxes_row(9)]
    path = write(tmp_path / "rows.parquet", rows)
    result = run.invoke(app, ["check", str(path), "--json", "--workers", "1"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    numbers, boxes = summary["sources"]["numbers"], summary["sources"]["boxes"]
    assert (numbers["rows"], numbers["verifiers"], boxes["boxes"]) == (
        3, {"mathverify": 3}, {"min": 1, "mean": 1.0, "max": 1},
    )  # fmt: skip
    assert numbers["width"] == {"min": 28, "mean": 37.33, "max": 56}  # (28 + 56 + 28) / 3
    assert boxes["labels"] == {"different": 1, "most": {"cat": 1}}
    twice = [{"file": str(path), "row": 0}, {"file": str(path), "row": 2}]
    assert summary["duplicates"]["exact"] == [twice]
    told = run.invoke(app, ["check", str(path)])
    assert "1 sets of images with the same bytes, 0 over several files" in told.stderr


def test_a_sample_of_rows_is_checked_and_a_job_names_its_data(tmp_path: Path) -> None:
    write(tmp_path / "rows.parquet", [math_row(i) for i in range(30)])
    job = tmp_path / "job.toml"
    job.write_text(f'model = "m"\ntotal_steps = 1\n[data]\ntrain = ["{tmp_path}"]\n')
    options = ["--sample", "7", "--fast", "--no-tokens", "--json", "--workers", "1"]
    result = run.invoke(app, ["check", "--job", str(job), *options])
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["rows_checked"]) == (30, 7)
    assert run.invoke(app, ["check"]).exit_code == 2


def test_prompts_are_counted_by_the_model_of_a_job_and_too_long_ones_are_bad(tmp_path: Path) -> None:
    model = make_tiny_vlm(tmp_path / "model", ["user", "assistant", "How many in 0?"] * 4, seed=0)
    large = math_row() | {"images": [{"bytes": png(280, 140), "path": "b.png"}]}
    write(tmp_path / "data/rows.parquet", [math_row(), large])
    job = tmp_path / "job.toml"

    def checked(most: int, *options: str) -> list[dict[str, Any]]:
        job.write_text(
            f'model = "{model}"\ntotal_steps = 1\n[data]\ntrain = ["{tmp_path}/data"]\nmax_prompt_tokens = {most}\n'
        )
        result = run.invoke(app, ["check", "--job", str(job), "--json", *options])
        return [json.loads(line) for line in result.stdout.splitlines()]

    (summary,) = checked(4096, "--workers", "1")
    tokens = summary["sources"]["numbers"]["prompt_tokens"]
    assert tokens["max"] - tokens["min"] == 10 * 5 - 2 * 2  # a feature is 28 x 28, an image 56 x 56 at least
    problem, summary = checked(int(tokens["max"]) - 1, "--workers", "1")
    assert (problem["row"], summary["problems"]) == (1, 1)
    assert problem["reason"].startswith(f"the prompt has {tokens['max']:.0f} tokens, images included; ")
    model.rename(tmp_path / "elsewhere")
    failed = run.invoke(app, ["check", "--job", str(job), "--workers", "1"])
    assert failed.exit_code == 2 and "cannot be loaded" in failed.output


def test_a_function_of_a_plugin_that_is_no_verifier_is_told_beside_the_rows_that_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIUNE_REWARD_PLUGINS", str(tmp_path))
    (tmp_path / "mine.py").write_text("def two(text): return 1.0\ndef one(completion, spec, context): return 1.0\n")
    write(tmp_path / "rows.parquet", [math_row(0, verifier="two")])
    job = tmp_path / "job.toml"
    data = f'[data]\ntrain = ["{tmp_path}/rows.parquet"]\n'
    job.write_text(f'model = "m"\ntotal_steps = 1\n{data}[reward]\nplugins = ["mine.py"]\n')
    result = run.invoke(app, ["check", "--job", str(job), "--no-tokens", "--workers", "1", "--fast"])
    assert (result.exit_code, "verifier is 'two'" in result.stdout) == (2, True)
    assert "note: the plugin mine.py defines two(text), which is no verifier" in result.stderr


def test_a_model_that_cannot_be_loaded_is_told_once_and_before_any_process_asks_for_it(tmp_path: Path) -> None:
    hub_logging.set_verbosity_warning()
    data = {"train": ["a"]}
    with pytest.raises(BadJob, match=r"model '.*gone' cannot be loaded"):
        for_workers(parse_job({"model": str(tmp_path / "gone"), "total_steps": 1, "data": data}))
    assert hub_logging.get_verbosity() == hub_logging.ERROR  # no line a retry


@pytest.mark.parametrize("command", [["make"], ["check"]])
def test_a_place_that_cannot_be_used_is_one_sentence(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").write_text("")
    result = run.invoke(app, [*command, str(tmp_path / "file" / "inside")])
    assert result.exit_code in (1, 2) and "Traceback" not in result.output
    assert len([line for line in result.output.splitlines() if str(tmp_path) in line]) == 1


def test_without_a_model_curation_is_by_rules_alone(tmp_path: Path) -> None:
    rows = [math_row(0), math_row(1, answer="x = 1") | {"ability": "math"}, boxes_row(2), broken_row(3)]
    write(tmp_path / "in/a.parquet", rows)
    result = run.invoke(app, ["curate", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"tried": 0, "kept": 2, "left_out": {REASON: 1, UNUSABLE: 1}, "sources": {}}
    kept = run.invoke(
        app, ["curate", str(tmp_path / "in"), "--out", str(tmp_path / "all"), "--keep-duplicates", "--json"]
    )
    assert json.loads(kept.stdout)["kept"] == 2
    assert run.invoke(app, ["check", str(tmp_path / "all" / "curated")]).exit_code == 0
    assert (tmp_path / "all" / "report.html").exists()


UNUSABLE = "a row that cannot be used (first: image 0: the image has no bytes)"
REASON = "an answer with one of = [ ] ( ) ;"


def test_a_foreign_data_set_is_converted_with_a_preview(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "2 + 2?", "answer": "4"}\n{"question": "3?"}\n')
    result = run.invoke(app, ["convert", str(tmp_path / "rows.jsonl"), str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["format"], told["rows"], sum(told["left_out"].values())) == ("table", 1, 1)
    assert (tmp_path / "out/preview.html").exists()
    assert run.invoke(app, ["check", str(tmp_path / "out")]).exit_code == 0
    wrong = run.invoke(app, ["convert", str(tmp_path / "rows.jsonl"), str(tmp_path / "two"), "--verifier", "mathverfy"])
    assert wrong.exit_code == 2 and "there are anls" in wrong.stderr
    assert wrong.stderr.endswith("; the nearest one is 'mathverify'\n")


@pytest.mark.parametrize("ending", ["jsonl", "tsv", "parquet"])
def test_a_conversion_with_wrong_columns_names_those_that_are_there_and_can_be_tried_again(
    tmp_path: Path, ending: str
) -> None:
    rows, source, folder = [{"ask": f"{n}?", "gold": n} for n in range(16)], tmp_path / f"a.{ending}", tmp_path / "out"
    match ending:
        case "jsonl":
            source.write_text("\n".join(map(json.dumps, rows)))
        case "tsv":
            source.write_text("\n".join(["ask\tgold", *(f"{row['ask']}\t{row['gold']}" for row in rows)]))
        case _:
            pq.write_table(pa.Table.from_pylist(rows), source)

    def converted(*options: str) -> Result:
        return run.invoke(app, ["convert", str(source), str(folder), *options])

    unnamed = converted()
    assert unnamed.exit_code == 2 and "left out 16: no question in question" in unnamed.stderr
    assert "the columns are ask, gold. --question COLUMN names another" in " ".join(unnamed.stderr.split())
    misnamed = converted("--question", "Ask", "--answer", "gold")
    assert misnamed.exit_code == 2 and "left out" not in misnamed.stderr
    assert "--question is 'Ask'; its columns are ask, gold" in " ".join(misnamed.stderr.split())
    assert not (folder / "convert.json").exists()
    named = converted("--question", "ask", "--answer", "gold")
    assert named.exit_code == 0 and "16 rows" in named.stderr
    other = " ".join(converted("--question", "ask", "--answer", "ask").stderr.split())
    assert "--name a --question ask --answer gold); expected" in other and "Options(" not in other


def test_a_column_that_only_a_late_line_has_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "1?"}\n' * 300 + '{"q": "2?", "gold": "2"}\n')
    options = ["--question", "q", "--answer", "gold", "--json"]
    result = run.invoke(app, ["convert", str(tmp_path / "a.jsonl"), str(tmp_path / "out"), *options])
    assert result.exit_code == 0 and json.loads(result.stdout)["rows"] == 1
