"""The tables of a job's store: SQLite in the run folder, one writer, any number of readers (write-ahead log)."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from services.monitor.history import peaks, totals
from shared.errors import Corrupt, Unavailable

STORE_NAME = "monitor.sqlite"
TRAIN_VERSION = -1
"""Stands for "no version" in the key of training groups."""

ENGINE = "engine/"
"""What a fact's key begins with that holds what a replica computes with."""

LAYOUT = 4
"""1 had neither peaks nor totals: they follow from the rest, and are made when such a store is opened. 2 kept facts of
waiting groups, which follow from their records. 3 knew no portions: its steps had none."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS streams(name TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;

-- One row a group. `sequence` is NULL while only a step has named it. state: scored, trained, void.
CREATE TABLE IF NOT EXISTS groups(
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL, version INTEGER NOT NULL, ordinal INTEGER NOT NULL,
    sequence INTEGER, source TEXT NOT NULL, task TEXT NOT NULL, sample_id TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
    stage TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '',
    step INTEGER, staleness INTEGER, reward REAL, errors INTEGER NOT NULL DEFAULT 0,
    oldest_version INTEGER, replica TEXT NOT NULL DEFAULT '', scorer TEXT NOT NULL DEFAULT '',
    published_at REAL, started_at REAL, finished_at REAL, score_started_at REAL, score_finished_at REAL,
    UNIQUE(kind, version, ordinal));
CREATE INDEX IF NOT EXISTS groups_by_step ON groups(kind, step);
CREATE INDEX IF NOT EXISTS void_groups ON groups(state) WHERE state = 'void';

-- How many groups there are of each sort, kept by the triggers below; n never falls below 0.
CREATE TABLE IF NOT EXISTS counts(
    kind TEXT, version INTEGER, source TEXT, state TEXT, reason TEXT, n INTEGER NOT NULL,
    PRIMARY KEY(kind, version, source, state, reason)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS group_came AFTER INSERT ON groups BEGIN
    INSERT INTO counts VALUES(NEW.kind, NEW.version, NEW.source, NEW.state, NEW.reason, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER IF NOT EXISTS group_went AFTER DELETE ON groups BEGIN
    UPDATE counts SET n = n - 1 WHERE kind = OLD.kind AND version = OLD.version AND source = OLD.source
        AND state = OLD.state AND reason = OLD.reason;
END;
CREATE TRIGGER IF NOT EXISTS group_changed AFTER UPDATE OF source, state, reason ON groups BEGIN
    UPDATE counts SET n = n - 1 WHERE kind = OLD.kind AND version = OLD.version AND source = OLD.source
        AND state = OLD.state AND reason = OLD.reason;
    INSERT INTO counts VALUES(NEW.kind, NEW.version, NEW.source, NEW.state, NEW.reason, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TABLE IF NOT EXISTS duplicates(
    kind TEXT, source TEXT, n INTEGER NOT NULL, PRIMARY KEY(kind, source)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources(source TEXT PRIMARY KEY, task TEXT NOT NULL) WITHOUT ROWID;

-- A scored group until its step or its evaluation is done (then it lies in samples/*.parquet): where its record is.
CREATE TABLE IF NOT EXISTS waiting(
    kind TEXT, version INTEGER, ordinal INTEGER, file INTEGER, offset INTEGER, length INTEGER,
    PRIMARY KEY(kind, version, ordinal)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting_by_file ON waiting(file);

CREATE TABLE IF NOT EXISTS series(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, source TEXT NOT NULL, task TEXT NOT NULL, UNIQUE(name, source, task));
CREATE TABLE IF NOT EXISTS points(
    series INTEGER, step INTEGER, time REAL, value REAL NOT NULL, PRIMARY KEY(series, step, time)) WITHOUT ROWID;
-- The lowest and the highest point of each stretch of steps (`peaks.py`); sums over all steps (`totals.py`).
CREATE TABLE IF NOT EXISTS peaks(
    series INTEGER, level INTEGER, step INTEGER, time REAL, value REAL NOT NULL,
    PRIMARY KEY(series, level, step, time)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals(
    name TEXT PRIMARY KEY, n INTEGER NOT NULL, total REAL NOT NULL, most REAL NOT NULL) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS steps(
    step INTEGER PRIMARY KEY, incarnation INTEGER, sequence INTEGER, finished_at REAL, groups INTEGER, void INTEGER,
    metrics TEXT, timing TEXT, portions TEXT NOT NULL DEFAULT '[]');
-- What a replay of a step needs besides its groups, and the digest of the weights that it made (NULL: not heard).
CREATE TABLE IF NOT EXISTS announced(
    step INTEGER PRIMARY KEY, importance INTEGER NOT NULL DEFAULT 0, digest TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evaluations(
    version INTEGER PRIMARY KEY, sequence INTEGER, total INTEGER, void INTEGER, finished_at REAL);
"""


def incarnation_key(version: int) -> str:
    """The fact that names the incarnation of an evaluated version's weights, where it is not the first one."""
    return f"evaluation/{version}/incarnation"


@contextlib.contextmanager
def using(folder: Path) -> Iterator[None]:
    """What the disk, SQLite and Arrow raise inside, in our words: Unavailable, or Corrupt where `folder` is damaged."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise Unavailable(f"run folder {folder} cannot be used: {error}") from error
    except (sqlite3.DatabaseError, pa.ArrowInvalid) as error:
        raise Corrupt(f"the store in {folder} is damaged: {error}") from error


def open_for_writing(folder: Path) -> sqlite3.Connection:
    """The store in `folder`, created when it is missing; transactions are explicit (BEGIN, COMMIT)."""
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / STORE_NAME, isolation_level=None, check_same_thread=False, timeout=30.0)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    earlier = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.executescript(SCHEMA)
    if 0 < earlier < LAYOUT:
        _bring_up(connection, earlier)
    connection.execute(f"PRAGMA user_version={LAYOUT}")  # last: readers pass over a store that is not laid out yet
    connection.row_factory = sqlite3.Row
    return connection


def open_for_reading(folder: Path) -> sqlite3.Connection | None:
    """A read-only connection; None when the job has no store yet."""
    path = folder / STORE_NAME
    if not path.exists():
        return None
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0, check_same_thread=False)
    layout = connection.execute("PRAGMA user_version").fetchone()[0]
    if layout != LAYOUT:
        connection.close()
        if not 0 < layout < LAYOUT:
            return None
        open_for_writing(folder).close()
        return open_for_reading(folder)
    connection.row_factory = sqlite3.Row
    return connection


def _bring_up(connection: sqlite3.Connection, earlier: int) -> None:
    """From an `earlier` layout to this one."""
    connection.execute("BEGIN IMMEDIATE")
    if earlier < 2:
        totals.recount(connection)
        peaks.rewrite(connection)
    if "facts" in _columns(connection, "waiting"):
        connection.execute("ALTER TABLE waiting DROP COLUMN facts")
    if "portions" not in _columns(connection, "steps"):
        connection.execute("ALTER TABLE steps ADD COLUMN portions TEXT NOT NULL DEFAULT '[]'")
    connection.execute("COMMIT")


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {column[1] for column in connection.execute(f"PRAGMA table_info({table})")}
