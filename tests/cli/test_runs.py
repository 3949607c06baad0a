"""Run folders: what is superfluous in them."""

from pathlib import Path

from triune.cli.folders.runs import _superfluous, run_folders


def make(runs: Path, job: str, checkpoints: int) -> None:
    for step in range(1, checkpoints + 1):
        folder = runs / job / "checkpoints" / f"step-{step:06}"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * 100)
    (runs / job / "job.toml").write_text("")


def test_folders_of_deleted_jobs_go_and_old_checkpoints_of_ended_ones_if_wanted(tmp_path: Path) -> None:
    for job in ("deleted", "done", "running"):
        make(tmp_path, job, 3)
    (tmp_path / ".local").mkdir()
    (tmp_path / "something-else").mkdir()
    folders = list(run_folders(tmp_path, {"done": "done", "running": "running"}))
    assert [(one.path.name, one.state, one.size) for one in folders] == [
        ("deleted", None, 300),
        ("done", "done", 300),
        ("running", "running", 300),
    ]
    assert list(_superfluous(folders, checkpoints=False)) == [tmp_path / "deleted"]
    assert list(_superfluous(folders, checkpoints=True)) == [
        tmp_path / "deleted",
        tmp_path / "done" / "checkpoints" / "step-000001",
        tmp_path / "done" / "checkpoints" / "step-000002",
    ]
