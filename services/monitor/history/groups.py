"""A group in the store: what names it, and the row that its record makes."""

import sqlite3
from typing import NamedTuple

from services.monitor.history.schema import TRAIN_VERSION
from shared.messages import Kind, Prompt, Scored, Voided


class Key(NamedTuple):
    """What names a group within a job."""

    kind: Kind
    version: int
    ordinal: int


def key_of(kind: Kind, version: int | None, ordinal: int) -> Key:
    return Key(kind, TRAIN_VERSION if version is None or kind == "train" else version, ordinal)


def key_of_record(record: object) -> Key:
    """The key of the group that a record of the journal is of."""
    of = record.prompt if isinstance(record, Scored) else record
    assert isinstance(of, Prompt | Voided), f"the journal holds a {type(record).__name__}"
    return key_of(of.kind, of.version, of.ordinal)


def key_of_row(row: sqlite3.Row) -> Key:
    return Key(row["kind"], row["version"], row["ordinal"])


class Arrived(NamedTuple):
    """A scored group that is new here; `body` is its record as it came."""

    key: Key
    sequence: int
    scored: Scored
    body: bytes = b""


_SCORED_COLUMNS = (
    "sequence", "source", "task", "sample_id", "state", "reward", "errors", "oldest_version", "replica", "scorer",
    "published_at", "started_at", "finished_at", "score_started_at", "score_finished_at",
)  # fmt: skip
# A step may have named the group before its record came: what the step said of its state stays.
ADD_SCORED = (
    f"INSERT INTO groups(kind, version, ordinal, {', '.join(_SCORED_COLUMNS)}) "
    f"VALUES({', '.join('?' * (3 + len(_SCORED_COLUMNS)))}) ON CONFLICT(kind, version, ordinal) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _SCORED_COLUMNS if name != "state")
)


def scored_row(arrived: Arrived) -> tuple[object, ...]:
    """The values of `ADD_SCORED`: the key, then `_SCORED_COLUMNS`."""
    key, sequence, scored, _ = arrived
    prompt, group = scored.prompt, scored.group
    rewards = [reward.final for reward in scored.rewards if reward.ok]
    mean, errors = sum(rewards) / len(rewards) if rewards else None, len(scored.rewards) - len(rewards)
    times = (prompt.published_at, group.started_at, group.finished_at, scored.started_at, scored.finished_at)
    return (
        *key, sequence, prompt.source, prompt.task, prompt.sample_id, "scored", mean, errors, scored.oldest_version,
        group.replica, scored.replica, *times,
    )  # fmt: skip
