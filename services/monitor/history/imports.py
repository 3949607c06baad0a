"""A run folder as the whole of a job: what it says of the job, and its history taken back to the last checkpoint.

What was done after the checkpoint is done again: the learner has forgotten it, and the journal of it is gone.
"""

import json
import re
from pathlib import Path

import msgspec

from services.monitor.history import peaks, totals
from services.monitor.history.report import read_report
from services.monitor.history.samples import FOLDER, REST_FILE
from services.monitor.history.schema import open_for_writing
from shared.errors import BadJob
from shared.jobs.record import OVER, Change, State
from shared.jobs.spec import JobSpec, parse_job, parse_toml

JOB_NAME, CHECKPOINTS, STATE_NAME = "job.toml", "checkpoints", "state.json"
_CHECKPOINT = re.compile(r"step-(\d{6,})")
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
        place = _last_checkpoint(folder / CHECKPOINTS)
    except (OSError, json.JSONDecodeError, msgspec.DecodeError) as error:
        raise BadJob([f"{folder} is no run folder that can be imported: {error}"]) from error
    over = next((state for state in OVER if state == report.get("state")), None)
    return Run(spec, changes, over or "queued", place)


def _last_checkpoint(checkpoints: Path) -> Place:
    names = sorted(path.name for path in checkpoints.glob("step-*") if _CHECKPOINT.fullmatch(path.name))
    if not names:
        return Place()
    return msgspec.json.decode((checkpoints / names[-1] / STATE_NAME).read_bytes(), type=_Document).state


def take_back(folder: Path, place: Place) -> None:
    """Forget what the history holds of steps past the checkpoint, and which streams it was read from. Again is fine."""
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
