"""A job's history on disk: series, groups, counters and stream sequences, changed together in one transaction.

`synchronous=NORMAL` in the write-ahead log keeps every commit through a killed process; a power loss may take the last
commits, and the streams, whose acks follow a commit, give at most those again from their own sequence.
"""

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from services.monitor.history import totals
from services.monitor.history.groups import ADD_SCORED, Arrived, Key, key_of, scored_row
from services.monitor.history.peaks import Peaks
from services.monitor.history.schema import ENGINE, TRAIN_VERSION, incarnation_key, open_for_writing
from services.monitor.history.shelf import Shelf, Spot, read_spot
from services.monitor.values.where import Where
from shared.messages import EngineOpened, EvalDone, Kind, Scored, StepDone, Voided, decode, encode

_GROUP = "kind = ? AND version = ? AND ordinal = ?"
_TRAINING = f"kind = 'train' AND version = {TRAIN_VERSION} AND ordinal IN (SELECT value FROM json_each(?))"


class Store:
    """The one writer of a job's store. Not thread-safe: its owner calls it from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db = open_for_writing(folder)
        self._shelf = Shelf(folder)
        self._dropped = True  # so that files of a writer that was killed go, too
        self._series: dict[tuple[str, Where], int] = {
            (row["name"], Where(row["source"], row["task"])): row["id"]
            for row in self._db.execute("SELECT * FROM series")
        }
        self._sources: set[tuple[str, str]] = set()  # that are surely in the store
        self._peaks = Peaks(self._db)

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is written inside."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # SQLite takes it back itself when the disk is full
                self._db.execute("ROLLBACK")
            self._series = {
                key: number
                for key, number in self._series.items()
                if self._one("SELECT 1 FROM series WHERE id = ?", number)
            }
            self._sources.clear()
            self._peaks.forget()
            raise
        self._db.execute("COMMIT")
        if self._dropped:
            self._dropped = False
            self._shelf.keep({row["file"] for row in self._db.execute("SELECT DISTINCT file FROM waiting")})

    # ---- what was read of the streams, and small facts
    def sequence(self, stream: str) -> int:
        """The last sequence of `stream` that is in the store; 0 for none."""
        row = self._one("SELECT sequence FROM streams WHERE name = ?", stream)
        return int(row["sequence"]) if row else 0

    def set_sequence(self, stream: str, sequence: int) -> None:
        self._db.execute(
            "INSERT INTO streams VALUES(?, ?) ON CONFLICT DO UPDATE SET sequence = MAX(sequence, excluded.sequence)",
            (stream, sequence),
        )

    def meta(self, key: str) -> str | None:
        row = self._one("SELECT value FROM meta WHERE key = ?", key)
        return row["value"] if row else None

    def set_meta(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value))

    def set_engine(self, opened: EngineOpened) -> None:
        """What a replica computes with; the last it has opened counts."""
        text = json.dumps(opened.facts | {"opened_at": opened.opened_at})
        self.set_meta(f"{ENGINE}{opened.service}/{opened.replica}", text)

    # ---- groups
    def group(self, key: Key) -> sqlite3.Row | None:
        return self._one(f"SELECT * FROM groups WHERE {_GROUP}", *key)

    def count_groups(self, kind: Kind, version: int) -> int:
        row = self._one("SELECT SUM(n) AS n FROM counts WHERE kind = ? AND version = ?", kind, version)
        return int(row["n"] or 0) if row else 0

    def has_all(self, ordinals: Sequence[int], *, void: bool = False) -> bool:
        """Whether each of the training groups has its record here; with `void`, one that gave it up."""
        state = "AND state = 'void'" if void else ""
        query = f"SELECT COUNT(*) AS n FROM groups WHERE {_TRAINING} AND sequence IS NOT NULL {state}"
        row = self._one(query, json.dumps(ordinals))
        return row is not None and row["n"] == len(ordinals)

    def training_groups(self, ordinals: Sequence[int]) -> dict[int, sqlite3.Row]:
        """The rows of these training groups, by ordinal."""
        query = f"SELECT * FROM groups WHERE {_TRAINING}"
        return {row["ordinal"]: row for row in self._db.execute(query, (json.dumps(ordinals),))}

    def first_records(self, keys: Iterable[Key]) -> dict[Key, str]:
        """Of each group whose record is here: the stage that gave it up, empty when it was scored."""
        by_set: dict[tuple[Kind, int], list[int]] = {}
        for key in keys:
            by_set.setdefault((key.kind, key.version), []).append(key.ordinal)
        query = (
            "SELECT ordinal, stage FROM groups WHERE kind = ? AND version = ? "
            "AND ordinal IN (SELECT value FROM json_each(?)) AND sequence IS NOT NULL"
        )
        return {
            Key(kind, version, row["ordinal"]): row["stage"]
            for (kind, version), ordinals in by_set.items()
            for row in self._db.execute(query, (kind, version, json.dumps(ordinals)))
        }

    def mark_trained(self, step: int, staleness: Mapping[int, int]) -> None:
        """Training groups by ordinal, with their staleness, were consumed by `step`."""
        query = f"UPDATE groups SET state = 'trained', reason = '', step = ?, staleness = ? WHERE {_GROUP}"
        rows = [(step, age, "train", TRAIN_VERSION, ordinal) for ordinal, age in staleness.items()]
        if self._db.executemany(query, rows).rowcount == len(rows):
            return
        for ordinal in staleness.keys() - self.training_groups(list(staleness)).keys():
            self.update_group(key_of("train", None, ordinal), state="trained")
        self._db.executemany(query, rows)

    def add_scored(self, groups: Sequence[Arrived]) -> None:
        """Groups whose records were not here yet."""
        self._db.executemany(ADD_SCORED, [scored_row(group) for group in groups])
        for group in groups:
            self._add_source(group.scored.prompt.source, group.scored.prompt.task)

    def add_void(self, key: Key, sequence: int, void: Voided) -> None:
        self._upsert(
            key,
            sequence=sequence,
            source=void.source,
            task=void.task,
            sample_id=void.sample_id,
            state="void",
            reason=void.reason,
            stage=void.stage,
            detail=void.detail[:500],
        )
        self._add_source(void.source, void.task)

    def update_group(self, key: Key, **columns: object) -> None:
        """Set columns of a group, which is created (without a source) when its record has not come yet."""
        if self.group(key) is None:
            self._db.execute(
                "INSERT INTO groups(kind, version, ordinal, source, task, state) VALUES(?, ?, ?, '', '', 'scored')", key
            )
        names = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"UPDATE groups SET {names} WHERE {_GROUP}", (*columns.values(), *key))

    def add_duplicate(self, kind: Kind, source: str) -> None:
        self._db.execute("INSERT INTO duplicates VALUES(?, ?, 1) ON CONFLICT DO UPDATE SET n = n + 1", (kind, source))

    def _add_source(self, source: str, task: str) -> None:
        if (source, task) not in self._sources:
            self._db.execute("INSERT OR IGNORE INTO sources VALUES(?, ?)", (source, task))
            self._sources.add((source, task))

    # ---- groups that wait for their step
    def put_waiting(self, groups: Sequence[Arrived]) -> None:
        """What the samples of these groups will be made of."""
        if not groups:
            return
        spots = self._shelf.put([group.body or encode(group.scored) for group in groups])
        rows = [(*group.key, *spot) for group, spot in zip(groups, spots, strict=True)]
        self._db.executemany("INSERT OR REPLACE INTO waiting VALUES(?, ?, ?, ?, ?, ?)", rows)

    def waiting_record(self, key: Key) -> Scored | None:
        """The record of a group; None when it was void before it was scored."""
        row = self._one(f"SELECT file, offset, length FROM waiting WHERE {_GROUP}", *key)
        body = read_spot(self.folder, Spot(*row)) if row else None
        record = decode(body) if body else None
        return record if isinstance(record, Scored) else None

    def drop_waiting(self, keys: Iterable[Key]) -> None:
        if self._db.executemany(f"DELETE FROM waiting WHERE {_GROUP}", keys).rowcount:
            self._dropped = True

    # ---- series
    def add_points(self, step: int, time: float, values: Mapping[Where, Mapping[str, float]]) -> None:
        """One point a name and set; one that is there already is replaced, one that is not finite left out."""
        rows = [
            (self._series_id(name, where), step, time, float(value))
            for where, named in values.items()
            for name, value in named.items()
            if math.isfinite(value)
        ]
        self._db.executemany("INSERT OR REPLACE INTO points VALUES(?, ?, ?, ?)", rows)
        self._peaks.on_points(step, [row[0] for row in rows])

    def add_totals(self, values: Mapping[str, Sequence[float]]) -> None:
        """Values that the report sums up, by name."""
        totals.add(self._db, values)

    def _series_id(self, name: str, where: Where) -> int:
        found = self._series.get((name, where))
        if found is None:
            cursor = self._db.execute("INSERT INTO series(name, source, task) VALUES(?, ?, ?)", (name, *where))
            found = self._series[name, where] = int(cursor.lastrowid or 0)
        return found

    # ---- steps and evaluations
    def has_step(self, step: int) -> bool:
        return self._one("SELECT 1 FROM steps WHERE step = ?", step) is not None

    def last_step(self) -> int:
        row = self._one("SELECT MAX(step) AS step FROM steps")
        return int(row["step"] or 0) if row else 0

    def step_finished_at(self, step: int, otherwise: float) -> float:
        """When a step ended, seconds since the epoch; `otherwise` for one that is not here."""
        row = self._one("SELECT finished_at FROM steps WHERE step = ?", step)
        return float(row["finished_at"]) if row else otherwise

    def add_step(self, event: StepDone, sequence: int) -> None:
        row = (event.step, event.incarnation, sequence, event.finished_at, len(event.trained), len(event.voided))
        portions = msgspec.json.encode(event.portions).decode()
        documents = (_finite_json(event.metrics), _finite_json(event.timing), portions)
        names = "step, incarnation, sequence, finished_at, groups, void, metrics, timing, portions"
        self._db.execute(f"INSERT OR REPLACE INTO steps({names}) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", row + documents)

    def announce(self, step: int, **facts: object) -> None:
        """`importance` and `digest` of a step, as they were told."""
        self._db.execute("INSERT OR IGNORE INTO announced(step) VALUES(?)", (step,))
        names = ", ".join(f"{name} = ?" for name in facts)
        self._db.execute(f"UPDATE announced SET {names} WHERE step = ?", (*facts.values(), step))

    def has_evaluation(self, version: int) -> bool:
        return self._one("SELECT 1 FROM evaluations WHERE version = ?", version) is not None

    def add_evaluation(self, event: EvalDone, sequence: int, time: float) -> None:
        row = (event.version, sequence, event.total, event.void, time)
        self._db.execute("INSERT OR REPLACE INTO evaluations VALUES(?, ?, ?, ?, ?)", row)
        if event.incarnation:
            self.set_meta(incarnation_key(event.version), str(event.incarnation))

    def newest_time(self, kind: Kind, version: int) -> float:
        """When the last group of an evaluation was scored, in seconds since the epoch; 0 when none was."""
        query = "SELECT MAX(score_finished_at) AS time FROM groups WHERE kind = ? AND version = ?"
        row = self._one(query, kind, version)
        return float(row["time"] or 0.0) if row else 0.0

    def groups_of(self, kind: Kind, version: int) -> list[sqlite3.Row]:
        query = "SELECT * FROM groups WHERE kind = ? AND version = ? ORDER BY ordinal"
        return list(self._db.execute(query, (kind, version)))

    def unconsumed(self) -> list[sqlite3.Row]:
        """Training groups that no step has consumed, in order."""
        return list(self._db.execute("SELECT * FROM groups WHERE kind = 'train' AND step IS NULL ORDER BY ordinal"))

    def queued_staleness(self) -> dict[str, float]:
        """How many versions behind the newest the scored groups are that wait for their step; nothing without any."""
        version = self.meta("version")
        row = self._one(
            "SELECT AVG(oldest_version) AS mean FROM groups WHERE kind = 'train' AND step IS NULL AND state = 'scored'"
        )
        if version is None or row is None or row["mean"] is None:
            return {}
        return {"staleness_in_queue": max(0.0, int(version) - float(row["mean"]))}

    # ---- helpers
    def _upsert(self, key: Key, **columns: object) -> None:
        names = ", ".join(columns)
        marks = ", ".join("?" * (len(columns) + 3))
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in ("state", "reason"))
        # A step may have named the group before its record came: what the step said of its state stays.
        if "reason" in columns:
            changes += ", reason = CASE WHEN state = 'void' THEN excluded.reason ELSE reason END"
        self._db.execute(
            f"INSERT INTO groups(kind, version, ordinal, {names}) VALUES({marks}) "
            f"ON CONFLICT(kind, version, ordinal) DO UPDATE SET {changes}",
            (*key, *columns.values()),
        )

    def _one(self, query: str, *values: object) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._db.execute(query, values).fetchone()
        return row


def _finite_json(values: Mapping[str, float]) -> str:
    return json.dumps({name: value for name, value in values.items() if math.isfinite(value)})
