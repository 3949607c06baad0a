"""Sums over a whole run for its report, kept as it goes on: a report costs the same after any number of steps."""

import math
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

STALENESS: Final = "staleness"
_FROM_TABLES: Final = (
    "SELECT 'staleness', COUNT(*), SUM(staleness), MAX(staleness) FROM groups "
    "WHERE kind = 'train' AND state = 'trained' AND staleness IS NOT NULL GROUP BY kind",
    "SELECT 'timing/' || t.key, COUNT(*), SUM(t.value), MAX(t.value) FROM steps, json_each(steps.timing) t "
    "GROUP BY t.key",
    "SELECT s.name, COUNT(*), SUM(p.value), MAX(p.value) FROM series s JOIN points p ON p.series = s.id "
    "WHERE s.source = '' AND s.task = '' AND s.name LIKE 'weights/%' GROUP BY s.name",
)
"""What the sums are of, where the tables have it all."""


class Total(NamedTuple):
    """How many values there were, their sum, and the largest of them."""

    n: int = 0
    total: float = 0.0
    most: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else 0.0


def add(database: sqlite3.Connection, values: Mapping[str, Sequence[float]]) -> None:
    """Add values by name; what is not finite is left out, and a name without any value."""
    database.executemany(
        "INSERT INTO totals VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "n = n + excluded.n, total = total + excluded.total, most = MAX(most, excluded.most)",
        [
            (name, len(some), float(sum(some)), float(max(some)))
            for name, every in values.items()
            if (some := [value for value in every if math.isfinite(value)])
        ],
    )


def read(database: sqlite3.Connection) -> dict[str, Total]:
    """Every total by name."""
    return {row[0]: Total(*row[1:]) for row in database.execute("SELECT name, n, total, most FROM totals")}


def recount(database: sqlite3.Connection) -> None:
    """Add everything up anew: steps were taken back, or an earlier Triune kept no totals."""
    database.execute("DELETE FROM totals")
    for query in _FROM_TABLES:
        database.execute(f"INSERT INTO totals {query}")
