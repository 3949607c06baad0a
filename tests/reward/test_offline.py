"""`triune reward score` and `serve`: files in, exit codes and lines out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from triune.cli.reward import app

ROW = {"completion": "\\boxed{4}", "verifier": "mathverify", "ground_truth": "\\boxed{4}", "format_ratio": 0.0}
ORSTA = {
    "response": "<answer>\n\\boxed{5}\n</answer>",
    "data_source": "mm_math",
    "reward_model": {
        "answer": "4",
        "ground_truth": "\\boxed{4}",
        "accuracy_ratio": 1.0,
        "format_ratio": 0.0,
        "verifier": "mathverify",
        "verifier_parm": {"det_verifier_normalized": None},
    },
}
run = CliRunner().invoke


def _lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_a_file_of_json_lines_gives_a_line_a_sample_in_order(tmp_path: Path) -> None:
    file = _lines(tmp_path / "a.jsonl", ROW, ROW | {"completion": "no"}, ORSTA | {"more": 1})
    result = run(app, ["score", str(file), "--workers", "1", "--json"])
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [(one["row"], one["status"], one["final"]) for one in found] == [
        (1, "ok", 1.0),
        (2, "ok", 0.0),
        (3, "ok", 0.0),
    ]


def test_a_parquet_file_in_the_schema_of_the_data_set_is_scored(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([ORSTA] * 600), file)
    result = run(app, ["score", str(file), "--workers", "1"])
    assert result.exit_code == 0
    assert "mathverify" in result.stdout and "600" in result.stdout and "0.0000" in result.stdout


def test_a_sample_that_cannot_be_scored_is_told_and_the_exit_code_is_1(tmp_path: Path) -> None:
    file = _lines(tmp_path / "a.jsonl", ROW, ROW | {"verifier": "nobody"})
    result = run(app, ["score", str(file), "--workers", "1"])
    assert result.exit_code == 1
    assert "first of 1 errors: row 2: verifier 'nobody' is unknown" in result.stdout


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", "{bad\n", "row 1"),
        ("a.jsonl", '{"completion": "x"}\n', "missing required field `verifier`"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.csv", "", "expected .jsonl or .parquet"),
        ("missing.jsonl", None, "cannot be read"),
    ],
)
def test_a_bad_file_is_one_sentence_and_exit_code_2(tmp_path: Path, name: str, content: str | None, told: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    result = run(app, ["score", str(file), "--workers", "1"])
    assert result.exit_code == 2
    assert told in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("value", ["DYNAMIC", "1.5", "-0.1", "nan", "", "avg", "99"])
def test_a_threshold_that_is_none_is_refused_at_start(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = f"the IoU threshold is '{value}'; expected dynamic, average or a number from 0 to 1"
    result = run(app, ["serve", "--iou-threshold", value])
    assert (result.exit_code, told in result.stderr) == (2, True)
    monkeypatch.setenv("DET_IOU_THRESHOLD", value)
    result = run(app, ["serve"])
    assert (result.exit_code, told in result.stderr) == (2, True)


_SERVE = "import sys; from triune.cli.reward import app; sys.argv = ['reward', *sys.argv[1:]]; app()"


def test_a_server_is_announced_under_its_job_id_until_it_stops(tmp_path: Path) -> None:
    port = 18100 + os.getpid() % 800
    command = [sys.executable, "-c", _SERVE, "serve", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "JOB_ID": "j-0123456789", "DET_IOU_THRESHOLD": " 0.5 "}
    file = tmp_path / ".reward_server" / "j-0123456789" / f"127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            _wait(port)
            assert server.stdout is not None
            assert server.stdout.readline().startswith(f"reward server on http://127.0.0.1:{port} with 1 workers")
            assert file.is_file()
            taken = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
            assert taken.returncode == 2 and "Address already in use" in taken.stderr
            assert "Traceback" not in taken.stderr
            assert "reward server on" not in taken.stdout  # it is none
            assert file.is_file()
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
        finally:
            server.kill()
    assert list((tmp_path / ".reward_server").iterdir()) == []


def _wait(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            assert httpx.get(f"http://127.0.0.1:{port}/").json() == {"message": "Reward Judge Server"}
            return
        except httpx.TransportError:
            assert time.monotonic() < end, "the server did not come up"
            time.sleep(0.05)
