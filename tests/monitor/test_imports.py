"""A run folder that is imported goes on from the newest checkpoint that its history reaches."""

import json
import sqlite3
from pathlib import Path

import pytest

from services.monitor.history.imports import read_run, take_back
from services.monitor.history.schema import STORE_NAME
from services.monitor.history.store import Store
from shared.errors import BadJob
from shared.jobs.document import parse_job, write_toml


def run_folder(folder: Path, *, history: int, checkpoints: list[int]) -> Path:
    """A job whose monitor has read `history` steps; four groups a step."""
    spec = parse_job({"model": "m", "total_steps": 9, "data": {"train": ["x"]}, "algorithm": {"prompts_per_step": 4}})
    Store(folder).close()
    (folder / "job.toml").write_text(write_toml(spec))
    with sqlite3.connect(folder / STORE_NAME) as database:
        database.executemany("INSERT INTO steps(step, groups) VALUES(?, 4)", [(step + 1,) for step in range(history)])
    database.close()
    for step in checkpoints:
        state = {"step": step, "cursor": 4 * step, "ahead": [], "journal_created": "then"}
        (folder / f"checkpoints/step-{step:06d}").mkdir(parents=True)
        (folder / f"checkpoints/step-{step:06d}/state.json").write_text(json.dumps({"state": state}))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(("history", "step"), [(8, 6), (6, 6), (5, 3), (3, 3)])
def test_a_checkpoint_past_the_end_of_the_history_is_set_aside(tmp_path: Path, history: int, step: int) -> None:
    """The monitor was behind when the log was lost: from the later one the steps between would be missing."""
    folder = run_folder(tmp_path, history=history, checkpoints=[3, 6])
    run = read_run(folder)
    assert (run.place.step, run.place.cursor) == (step, 4 * step)
    take_back(folder, run.place)
    assert names(folder) == (["step-000003", "step-000006"] if step == 6 else ["step-000003", "unreached-step-000006"])
    assert read_run(folder).place == run.place


def test_checkpoints_that_are_all_past_the_history_are_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, history=2, checkpoints=[3, 6])
    with pytest.raises(BadJob, match="ends at step 2, before its first checkpoint, of step 3"):
        read_run(folder)


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    assert read_run(run_folder(tmp_path, history=2, checkpoints=[])).place.step == 0
