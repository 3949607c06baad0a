"""A run folder as the whole of a job: what it says of the job, and its history taken back to a checkpoint.

What was done after the checkpoint is done again: the learner has forgotten it, and the journal of it is gone. It is the
newest one that the history reaches: what the monitor had not read of the log when it was lost would be missing.
"""

import contextlib
import json
import re
from pathlib import Path

import msgspec

from services.monitor.history import peaks, totals
from services.monitor.history.files import read_report
from services.monitor.history.samples import FOLDER, REST_FILE
from services.monitor.history.schema import open_for_writing
from shared.errors import BadJob
from shared.jobs.document import parse_job, parse_toml
from shared.jobs.record import OVER, Change, State
from shared.jobs.spec import JobSpec

JOB_NAME, CHECKPOINTS, STATE_NAME = "job.toml", "checkpoints", "state.json"
_CHECKPOINT = re.compile(r"step-(\d{6,})")
_UNREACHED = "unreached-"
"""Begins the name of a checkpoint past the history's end, which is set aside."""
_SAMPLES = re.compile(r"(?:train|eval)-(\d+)\.parquet")


class Place(msgspec.Struct, frozen=True):
    """Where the learner stood at the last checkpoint, and in which journal (its stream's creation time).

    `ahead`: ordinals above the cursor that were consumed, too.
    """

    step: int = 0
    cursor: int = 0
    ahead: list[int] = []
    journal_created: str = ""


class _Document(msgspec.Struct, frozen=True):
    state: Place


class Run(msgspec.Struct, frozen=True):
    """A job as its run folder tells it; `state` is what it becomes by the import."""

    spec: JobSpec
    changes: list[Change]
    state: State
    place: Place


def read_run(folder: Path) -> Run:
    """Raises BadJob when the folder does not hold a job."""
    try:
        spec = parse_job(parse_toml((folder / JOB_NAME).read_text()))
        report = read_report(folder) or {}
        changes = msgspec.convert(report.get("changes", []), list[Change])
        over = next((state for state in OVER if state == report.get("state")), None)
        place = _place(folder, None if over else _last_step(folder))
    except (OSError, json.JSONDecodeError, msgspec.DecodeError) as error:
        raise BadJob([f"{folder} is no run folder that can be imported: {error}"]) from error
    return Run(spec, changes, over or "queued", place)


def _place(folder: Path, last: int | None) -> Place:
    """Of the newest checkpoint, at step `last` at most; raises BadJob when there are only later ones."""
    found = _checkpoints(folder)
    reached = [step for step in found if last is None or step <= last]
    if found and not reached:
        raise BadJob(
            [
                f"the history in {folder} ends at step {last}, before its first checkpoint, of step {min(found)}: what "
                f"was between is lost; move {CHECKPOINTS}/ away to begin anew"
            ]
        )
    if not found:
        return Place()
    return msgspec.json.decode((found[max(reached)] / STATE_NAME).read_bytes(), type=_Document).state


def _checkpoints(folder: Path) -> dict[int, Path]:
    """The complete ones, by step."""
    named = {path: _CHECKPOINT.fullmatch(path.name) for path in (folder / CHECKPOINTS).glob("step-*")}
    return {int(match[1]): path for path, match in named.items() if match}


def _last_step(folder: Path) -> int:
    """The last step of the history; 0: there is none."""
    with contextlib.closing(open_for_writing(folder)) as database:
        return int(database.execute("SELECT COALESCE(MAX(step), 0) FROM steps").fetchone()[0])


def take_back(folder: Path, place: Place) -> None:
    """Forget what the history holds of steps past the checkpoint, and which streams it was read from. Again is fine.

    Later checkpoints are set aside, so that the learner goes on from the same one.
    """
    for step, path in _checkpoints(folder).items():
        if step > place.step:
            path.rename(path.with_name(f"{_UNREACHED}{path.name}"))
    database = open_for_writing(folder)
    try:
        database.execute("BEGIN IMMEDIATE")
        consumed = json.dumps(place.ahead)
        for table in ("groups", "waiting"):
            database.execute(
                f"DELETE FROM {table} WHERE kind = 'train' AND ordinal >= ? "
                "AND ordinal NOT IN (SELECT value FROM json_each(?))",
                (place.cursor, consumed),
            )
        for statement, value in (
            ("DELETE FROM groups WHERE kind = 'eval' AND version > ?", place.step),
            ("DELETE FROM waiting WHERE kind = 'eval' AND version > ?", place.step),
            ("DELETE FROM points WHERE step > ?", place.step),
            ("DELETE FROM steps WHERE step > ?", place.step),
            ("DELETE FROM announced WHERE step > ?", place.step),
            ("DELETE FROM evaluations WHERE version > ?", place.step),
            ("UPDATE meta SET value = MIN(CAST(value AS INTEGER), ?) WHERE key = 'version'", place.step),
        ):
            database.execute(statement, (value,))
        database.execute("DELETE FROM streams")
        database.execute("DELETE FROM meta WHERE key IN ('final', 'order_total')")
        totals.recount(database)
        peaks.rewrite(database)
        database.execute("COMMIT")
    finally:
        database.close()
    for path in (folder / FOLDER).glob("*.parquet"):
        number = _SAMPLES.fullmatch(path.name)
        if path.name == REST_FILE or (number and int(number[1]) > place.step):
            path.unlink()
