"""A job's settings at a step: the job file and the changes (PATCH) that hold by then."""

from collections.abc import Sequence

import msgspec

from shared.jobs.record import Change, JobRecord
from shared.jobs.spec import JobSpec

LEARNER_KEYS = ("max_staleness", "total_steps")


def value_at(spec: JobSpec, changes: Sequence[Change], key: str, step: int) -> int:
    """`max_staleness` or `total_steps` as it holds for training step `step`."""
    value = spec.total_steps if key == "total_steps" else spec.algorithm.max_staleness
    for change in changes:
        if change.key == key and change.since is not None and change.since <= step:
            value = int(change.value)
    return value


def fix_changes(record: JobRecord, step: int) -> JobRecord:
    """`record` with every open change of the learner's keys fixed to hold from training step `step`."""
    fixed = [
        msgspec.structs.replace(change, since=step) if change.since is None and change.key in LEARNER_KEYS else change
        for change in record.changes
    ]
    return msgspec.structs.replace(record, changes=fixed)


def has_open_changes(record: JobRecord) -> bool:
    """Whether a change of the learner's keys waits to be fixed."""
    return any(change.since is None and change.key in LEARNER_KEYS for change in record.changes)
