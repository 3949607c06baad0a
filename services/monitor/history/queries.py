"""Reading a job's store: each `Reader` is a snapshot-free, read-only connection of one caller."""

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from services.monitor.history import peaks, totals
from services.monitor.history.schema import ENGINE, open_for_reading
from services.monitor.history.shelf import Spot, read_spot
from services.monitor.history.totals import STALENESS, Total
from services.monitor.values.where import Where
from shared.messages import Kind

ENGINES_SHOWN = 64
"""Replicas come and go for as long as a job lives."""
_STAMPS = "kind, replica, scorer, started_at, finished_at, score_started_at, score_finished_at"
Rewards = dict[str, dict[int, float]]
"""By source and ordinal."""


class Interval(NamedTuple):
    """From `start` to `end`, seconds since the epoch."""

    start: float
    end: float


@contextlib.contextmanager
def reading(folder: Path) -> Iterator["Reader | None"]:
    """A reader of the store in `folder`; None when there is no store yet."""
    connection = open_for_reading(folder)
    if connection is None:
        yield None
        return
    try:
        yield Reader(connection, folder)
    finally:
        connection.close()


class Reader:
    """Questions to a store. Not thread-safe."""

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        self._db, self._folder = connection, folder

    def meta(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row["value"] if row else None

    def engines(self) -> list[dict[str, Any]]:
        """What each replica computes with: `service`, `replica`, `opened_at` and its facts; the newest last."""
        found = []
        query = "SELECT key, value FROM meta WHERE key >= ? AND key < ?"
        for row in self._db.execute(query, (ENGINE, ENGINE + "\U0010ffff")):
            service, replica = row["key"].removeprefix(ENGINE).split("/", 1)
            found.append({"service": service, "replica": replica, **json.loads(row["value"])})
        return sorted(found, key=lambda engine: engine["opened_at"])[-ENGINES_SHOWN:]

    def tasks(self) -> dict[str, str]:
        """The task of each source that a group was seen of."""
        return {row["source"]: row["task"] for row in self._db.execute("SELECT * FROM sources ORDER BY source")}

    # ---- groups
    def train_counts(self) -> dict[str, dict[str, int]]:
        """By source: `published` (seen in the journal), `trained`, `void`, `duplicates`."""
        counts: dict[str, dict[str, int]] = {}
        for row in self._db.execute("SELECT source, state, SUM(n) AS n FROM counts WHERE kind = 'train' GROUP BY 1, 2"):
            if not row["n"]:
                continue
            of_source = counts.setdefault(row["source"], _no_groups())
            of_source["published"] += row["n"]
            if row["state"] in of_source:
                of_source[row["state"]] += row["n"]
        for row in self._db.execute("SELECT source, n FROM duplicates WHERE kind = 'train'"):
            counts.setdefault(row["source"], _no_groups())["duplicates"] += row["n"]
        return counts

    def count_groups(self) -> int:
        """Groups of both kinds that are in the store."""
        return int(self._db.execute("SELECT COALESCE(SUM(n), 0) AS n FROM counts").fetchone()["n"])

    def void_reasons(self, kind: Kind = "train", version: int | None = None) -> dict[str, dict[str, int]]:
        """Void groups by source and reason; held-out ones of one `version`, or of all evaluations."""
        found: dict[str, dict[str, int]] = {}
        query = (
            "SELECT source, reason, SUM(n) AS n FROM counts WHERE kind = ?1 AND state = 'void' "
            "AND (?2 IS NULL OR version = ?2) GROUP BY 1, 2 HAVING SUM(n) > 0"
        )
        for row in self._db.execute(query, (kind, version)):
            found.setdefault(row["source"], {})[row["reason"] or "unknown"] = row["n"]
        return found

    def void_groups(
        self, source: str | None, reason: str | None, before: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Void groups of a source and a reason (None: any), the newest first, from below the id `before`."""
        query = (
            "SELECT id, kind, version, ordinal, source, task, sample_id, reason, stage, detail, step FROM groups "
            "WHERE state = 'void' AND (?1 IS NULL OR source = ?1) AND (?2 IS NULL OR reason = ?2) "
            "AND (?3 IS NULL OR id < ?3) ORDER BY id DESC LIMIT ?4"
        )
        return [dict(row) for row in self._db.execute(query, (source, reason, before, limit))]

    def staleness(self) -> dict[str, float]:
        """`max` and `mean` over trained groups; 0 when there are none."""
        found = self.totals().get(STALENESS, Total())
        return {"max": int(found.most), "mean": found.mean}

    def totals(self) -> dict[str, Total]:
        """Sums over the whole run, by name."""
        return totals.read(self._db)

    # ---- steps and evaluations
    def steps(self, after: int = 0, limit: int = 1_000_000) -> list[dict[str, Any]]:
        """Training steps past `after`, in order: `metrics` and `timing` by name, `portions` as in `StepDone`."""
        query = "SELECT * FROM steps WHERE step > ? ORDER BY step LIMIT ?"
        return [_step(row) for row in self._db.execute(query, (after, limit))]

    def step_ends(self, count: int) -> list[float]:
        """When the newest `count` steps ended, in order."""
        rows = self._db.execute("SELECT finished_at FROM steps ORDER BY step DESC LIMIT ?", (count,)).fetchall()
        return [row["finished_at"] for row in reversed(rows)]

    def announced(self, step: int) -> tuple[bool, str | None]:
        """Whether a step had importance weights, and the digest of its weights (None: it was not heard)."""
        row = self._db.execute("SELECT importance, digest FROM announced WHERE step = ?", (step,)).fetchone()
        return (bool(row["importance"]), row["digest"]) if row else (False, None)

    def last_step(self) -> int:
        return int(self._db.execute("SELECT COALESCE(MAX(step), 0) AS step FROM steps").fetchone()["step"])

    def evaluations(self) -> list[dict[str, Any]]:
        """Finished evaluations in order of version."""
        return [dict(row) for row in self._db.execute("SELECT * FROM evaluations ORDER BY version")]

    # ---- series
    def find_series(self, name: str | None, source: str | None, task: str | None) -> list[tuple[int, str, str, str]]:
        """(number, name, source, task) of the series that are as wanted; None: any; a name `part/*`: the family."""
        query = (
            "SELECT id, name, source, task FROM series WHERE (?1 IS NULL OR name = ?1 "
            "OR (substr(?1, -1) = '*' AND substr(name, 1, length(?1) - 1) = substr(?1, 1, length(?1) - 1))) "
            "AND (?2 IS NULL OR source = ?2) AND (?3 IS NULL OR task = ?3) ORDER BY name, source, task"
        )
        return [tuple(row) for row in self._db.execute(query, (name, source, task))]

    def thinned(self, series: int, steps: tuple[int | None, int | None], limit: int) -> list[tuple[int, float, float]]:
        """(step, time, value) of a series between two steps, both included (None: open): see `peaks.thinned`."""
        return peaks.thinned(self._db, series, steps, limit)

    def find_groups(self, wanted: dict[str, Any], limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """The newest groups that are as wanted, from below the id `before`; None: any. Keys as in `browse.Wanted`."""
        query = (
            "SELECT * FROM groups WHERE (:source IS NULL OR source = :source) AND (:kind IS NULL OR kind = :kind) "
            "AND (:step IS NULL OR (kind = 'train' AND step = :step)) "
            "AND (:version IS NULL OR (kind = 'eval' AND version = :version)) "
            "AND (:ordinal IS NULL OR ordinal = :ordinal) AND (:state IS NULL OR state = :state) "
            "AND (:errors IS NULL OR (errors > 0) = :errors) AND (:min_reward IS NULL OR reward >= :min_reward) "
            "AND (:max_reward IS NULL OR reward <= :max_reward) "
            "AND (:before IS NULL OR id < :before) ORDER BY id DESC LIMIT :limit"
        )
        return [dict(row) for row in self._db.execute(query, wanted | {"limit": limit, "before": before})]

    def waiting_body(self, kind: str, version: int, ordinal: int) -> bytes | None:
        """The record of a group whose step is not done."""
        query = "SELECT file, offset, length FROM waiting WHERE kind = ? AND version = ? AND ordinal = ?"
        row = self._db.execute(query, (kind, version, ordinal)).fetchone()
        return read_spot(self._folder, Spot(*row)) if row else None

    def points(self, name: str, where: Where, limit: int = 2**53) -> list[tuple[int, float, float]]:
        """(step, time, value) of one series, in order of step and time, thinned to `limit` points."""
        found = self.find_series(name, where.source, where.task)
        return self.thinned(found[0][0], (None, None), limit) if found else []

    def all_points(self) -> Iterator[tuple[int, float, str, str, str, float]]:
        """(step, time, name, source, task, value) of every series."""
        query = "SELECT step, time, value FROM points WHERE series = ? ORDER BY step, time"
        for number, name, source, task in self.find_series(None, None, None):
            for step, time, value in self._db.execute(query, (number,)):
                yield step, time, name, source, task, value

    def step_points(self, step: int, *, evaluated: bool) -> list[tuple[str, Where, float]]:
        """(name, set, value) of one training step, or of one evaluated version: of all sources, and of each."""
        query = (
            "SELECT name, source, task, value FROM points JOIN series ON series.id = points.series "
            "WHERE step = ? AND (name LIKE 'eval/%') = ? AND task = ''"
        )
        found = self._db.execute(query, (step, evaluated))
        return [(row["name"], Where(row["source"], row["task"]), row["value"]) for row in found]

    def values_at(self, name: str, step: int) -> dict[str, float]:
        """By source, the value of one series at a step."""
        query = (
            "SELECT source, value FROM points JOIN series ON series.id = points.series "
            "WHERE name = ? AND step = ? AND source != ''"
        )
        return {row["source"]: row["value"] for row in self._db.execute(query, (name, step))}

    def newest_values(self, name: str) -> dict[str, float]:
        """By source, the last value of one series."""
        found = {}
        for number, _, source, _ in self.find_series(name, None, ""):
            row = self._db.execute(
                "SELECT value FROM points WHERE series = ? ORDER BY step DESC, time DESC LIMIT 1", (number,)
            ).fetchone()
            if source and row is not None:
                found[source] = row["value"]
        return found

    # ---- times
    def generation_times(self, kind: str) -> Iterator[Interval]:
        """When groups were generated, in order of start."""
        return self._intervals("started_at", "finished_at", kind)

    def scoring_times(self, kind: str) -> Iterator[Interval]:
        """When groups were scored, in order of start."""
        return self._intervals("score_started_at", "score_finished_at", kind)

    def update_times(self) -> Iterator[Interval]:
        """When the learner made its updates and portions of them, in order of start.

        A step is told `store_s` after its update.
        """
        query = (
            "SELECT told - step_s AS start, told AS end FROM (SELECT "
            "finished_at - COALESCE(json_extract(timing, '$.store_s'), 0) AS told, "
            "COALESCE(json_extract(timing, '$.step_s'), 0) AS step_s FROM steps WHERE finished_at > 0) "
            "UNION ALL SELECT json_extract(value, '$.started_at'), json_extract(value, '$.finished_at') "
            "FROM steps, json_each(steps.portions) WHERE steps.finished_at > 0 ORDER BY start"
        )
        return (Interval(*row) for row in self._db.execute(query))

    def last_step_end(self) -> float:
        """When the last step was told; 0 when there is none."""
        return float(self._db.execute("SELECT COALESCE(MAX(finished_at), 0) AS at FROM steps").fetchone()["at"])

    def generation_times_by_replica(self) -> Iterator[tuple[str, Iterator[Interval]]]:
        """When each rollout replica had a training group in hand, in order of start."""
        query = (
            "SELECT replica, started_at, finished_at FROM groups WHERE kind = 'train' AND started_at IS NOT NULL "
            "ORDER BY replica, started_at"
        )
        for replica, rows in itertools.groupby(self._db.execute(query), key=lambda row: row["replica"]):
            yield replica, (Interval(row["started_at"], row["finished_at"]) for row in rows)

    def newest_stamp(self) -> float:
        """The latest end of a step or of a group's scoring; 0 when there is none."""
        query = (
            "SELECT MAX((SELECT COALESCE(MAX(finished_at), 0) FROM steps), (SELECT COALESCE(MAX(score_finished_at), 0) "
            "FROM (SELECT score_finished_at FROM groups ORDER BY id DESC LIMIT 1000))) AS at"
        )
        return float(self._db.execute(query).fetchone()["at"])

    def newest_times(self, since: float, limit: int) -> list[dict[str, Any]]:
        """Kind, replicas and stamps of the newest `limit` groups, as far as they were scored after `since`."""
        query = (
            f"SELECT * FROM (SELECT {_STAMPS} FROM groups ORDER BY id DESC LIMIT ?) "
            "WHERE started_at IS NOT NULL AND score_finished_at > ?"
        )
        return [dict(row) for row in self._db.execute(query, (limit, since))]

    def times_of_step(self, step: int) -> list[dict[str, Any]]:
        """Kind, replicas and stamps of the groups that a step consumed, as far as they were generated."""
        query = f"SELECT {_STAMPS} FROM groups WHERE kind = 'train' AND step = ? AND started_at IS NOT NULL"
        return [dict(row) for row in self._db.execute(query, (step,))]

    def steps_since(self, since: float) -> list[dict[str, Any]]:
        """Steps that ended after `since`, as `steps` gives them."""
        query = "SELECT * FROM steps WHERE finished_at > ? ORDER BY step"
        return [_step(row) for row in self._db.execute(query, (since,))]

    def held_out_rewards(self, version: int) -> Rewards:
        """The mean reward of each held-out group at a version; groups without a verdict are left out."""
        query = (
            "SELECT source, ordinal, reward FROM groups WHERE kind = 'eval' AND version = ? AND state != 'void' "
            "AND reward IS NOT NULL ORDER BY ordinal"
        )
        found: Rewards = {}
        for row in self._db.execute(query, (version,)):
            found.setdefault(row["source"], {})[row["ordinal"]] = row["reward"]
        return found

    def _intervals(self, start: str, end: str, kind: str) -> Iterator[Interval]:
        query = f"SELECT {start}, {end} FROM groups WHERE kind = ? AND {start} IS NOT NULL ORDER BY {start}"
        return (Interval(*row) for row in self._db.execute(query, (kind,)))


def _step(row: sqlite3.Row) -> dict[str, Any]:
    return dict(row) | {name: json.loads(row[name]) for name in ("metrics", "timing", "portions")}


def _no_groups() -> dict[str, int]:
    return {"published": 0, "trained": 0, "void": 0, "duplicates": 0}
