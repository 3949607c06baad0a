"""A job as the API shows it: its record together with what its run folder says."""

import contextlib
import dataclasses
import sqlite3
from typing import Any

import msgspec

from services.monitor.analysis.report import build_report
from services.monitor.api.shapes import JobChange, JobDetails, JobSummary
from services.monitor.checks.changes import held_from, newest
from services.monitor.handlers import Desk
from services.monitor.history.files import read_report
from services.monitor.history.fold import FINAL
from services.monitor.history.labels import Label, read_label
from services.monitor.history.queries import reading
from shared.errors import Corrupt
from shared.jobs.record import Change, JobRecord


def summary_of(desk: Desk, record: JobRecord) -> JobSummary:
    """A line of the list of jobs; its store may be damaged."""
    step = 0
    with contextlib.suppress(sqlite3.DatabaseError), reading(desk.runs / record.id) as reader:
        step = reader.last_step() if reader else 0
    return JobSummary(**_fields(desk, record, step))


def details_of(desk: Desk, record: JobRecord, ordinal: int, error: str) -> JobDetails:
    """A job with its report so far; `ordinal` as in `build_report`, `error`: why it is not read on, or empty."""
    folder = desk.runs / record.id
    try:
        with reading(folder) as reader:
            report = build_report(record, reader, ordinal, read_report(folder))
            on_file = reader is not None and reader.meta(FINAL) == record.state
    except sqlite3.DatabaseError as damage:
        report, on_file = build_report(record, None, ordinal), False
        error = error or f"the store in {folder} cannot be read: {damage}"
    return JobDetails(
        **_fields(desk, record, report["steps"]),
        spec=msgspec.to_builtins(record.spec),
        changes=[_change(change) for change in record.changes],
        report=report,
        on_file=on_file,
        reading_error=error,
    )


def known_sources(desk: Desk, record: JobRecord) -> set[str]:
    """Sources that the job file names or that were seen; empty while nothing was seen: then any name is taken."""
    with reading(desk.runs / record.id) as reader:
        seen = set(reader.tasks()) - {""} if reader else set()
    return seen | set(record.spec.sources) if seen else set()


def _fields(desk: Desk, record: JobRecord, step: int) -> dict[str, Any]:
    return dataclasses.asdict(_label(desk, record)) | {
        "job_id": record.id,
        "state": record.state,
        "name": record.spec.name,
        "error": record.error,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "step": step,
        "total_steps": int(newest(record, "total_steps", record.spec.total_steps)),
        "max_staleness": int(newest(record, "max_staleness", record.spec.algorithm.max_staleness)),
    }


def _label(desk: Desk, record: JobRecord) -> Label:
    try:
        return read_label(desk.runs / record.id)
    except Corrupt as damage:
        return Label(title=str(damage))


def _change(change: Change) -> JobChange:
    return JobChange(**msgspec.structs.asdict(change), since_unit=held_from(change.key))
