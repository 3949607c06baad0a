"""The `triune` command: exit codes and the one sentence of each failure."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared.jobs.document import parse_job
from triune.cli import app
from triune.cli.jobs.submit import resolve_paths
from triune.demo.main import Options, compute_threads, demo_job
from triune.local.process import free_port

runner = CliRunner()


def run(*words: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    result = runner.invoke(app, list(words), env=env)
    return result.exit_code, result.output


def test_an_unknown_service_is_one_sentence_and_exit_2() -> None:
    code, text = run("serve", "rewards")
    assert code == 2
    assert "no service 'rewards'; there are data, rollout, reward, learner, monitor" in text


def test_a_job_file_with_mistakes_lists_them_before_anything_is_asked_of_the_api(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('modle = "x"\ntotal_steps = 0\n[data]\ntrain = ["a"]\n')
    code, text = run("job", "submit", str(tmp_path / "job.toml"))
    assert code == 2
    assert "the nearest known one is 'model'" in text
    assert "total_steps is 0" in text


def test_an_api_that_does_not_answer_is_one_sentence_and_exit_1() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code, text = run("job", "list", env={"TRIUNE_API_URL": url})
    assert code == 1
    assert f"the API at {url} does not answer" in text.replace("\n", " ")


def test_a_change_that_is_not_key_equals_number_is_refused() -> None:
    code, text = run("job", "set", "some-job", "max_staleness")
    assert code == 2
    assert "expected key=number" in text


def test_a_port_that_is_no_port_is_refused() -> None:
    code, text = run("health", env={"TRIUNE_HEALTH_PORT": "eight"})
    assert code == 2
    assert "TRIUNE_HEALTH_PORT is 'eight'" in text


def test_health_fails_when_nobody_listens() -> None:
    code, text = run("health", env={"TRIUNE_HEALTH_PORT": str(free_port())})
    assert code == 1
    assert text == "not ready\n"


def test_a_busy_api_port_is_one_sentence(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, text = run("up", env={"TRIUNE_API_PORT": str(port), "TRIUNE_RUNS": str(tmp_path)})
    assert code == 2
    assert f"port {port} on 127.0.0.1 is in use" in text


def test_relative_paths_are_taken_from_the_job_files_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").touch()
    spec = parse_job({"model": "org/name", "total_steps": 1, "data": {"train": ["rows.parquet", "none.parquet"]}})
    resolved = resolve_paths(spec, tmp_path)
    assert resolved.data.train == [str(tmp_path / "rows.parquet"), "none.parquet"]
    assert resolved.model == "org/name", "a hub id is left alone"


def test_the_demos_job_takes_the_options_of_the_command_line(tmp_path: Path) -> None:
    spec = demo_job(tmp_path / "data", tmp_path / "model", Options(max_staleness=2, steps=7, seed=5))
    assert (spec.algorithm.max_staleness, spec.total_steps, spec.seed) == (2, 7, 5)


def test_rollout_and_learner_share_the_cores_when_they_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert (compute_threads(0)["learner"], compute_threads(0)["rollout"]) == (8, 4), "in turns"
    assert compute_threads(1)["learner"] == compute_threads(1)["rollout"] == 4


def test_data_reward_and_monitor_start_without_torch() -> None:
    code = "import services.data.app, services.reward.app, services.monitor.app, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
