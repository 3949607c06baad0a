"""Curves of any length, drawn from as many points as are drawn: the lowest and the highest point of each stretch.

Level l has stretches of 16·4^(l - 1) steps. A stretch is written once a later step has come, in one pass over all
series; a point that comes late (an evaluation, weights that a slow replica loads) writes the stretches that it lies in
anew.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

FIRST: Final = 16
FACTOR: Final = 4
LEVELS: Final = 8
"""The last level has stretches of 262,144 steps; all of them together have a sixth as many points as there are."""
_PAST = "peaks"
"""The fact in the store that says below which step all stretches of level 1 are written."""


class Segment(NamedTuple):
    """From step `first` up to, and without, step `end`: points of `level`, 0: all of them."""

    level: int
    first: int
    end: int


def size(level: int) -> int:
    """Steps of one stretch; at level 0 each step is one."""
    return FIRST * FACTOR ** (level - 1) if level else 1


def level_for(width: float) -> int:
    """The highest level whose stretches are no longer than `width` steps."""
    return max(level for level in range(LEVELS + 1) if level == 0 or size(level) <= width)


def segments(first: int, end: int, level: int, past: int) -> Iterator[Segment]:
    """Steps from `first` up to `end` in order, by as few stretches as there are: whole ones of `level` that lie before
    `past`, and at both ends of those the ones of the levels below.
    """
    if first >= end:
        return
    inner = -(-first // size(level)) * size(level)
    outer = min(end, past) // size(level) * size(level)
    if level == 0:
        yield Segment(0, first, end)
    elif inner >= outer:
        yield from segments(first, end, level - 1, past)
    else:
        yield from segments(first, inner, level - 1, past)
        yield Segment(level, inner, outer)
        yield from segments(outer, end, level - 1, past)


def thinned(
    database: sqlite3.Connection, series: int, steps: tuple[int | None, int | None], limit: int
) -> list[tuple[int, float, float]]:
    """(step, time, value) of a series between two steps, both included (None: open), `limit` of them at most.

    Of each of limit / 2 equal stretches the lowest and the highest value stay. Where they are made of `peaks`, of
    two spikes less than a stretch apart the higher alone may stay. What is read grows with `limit` and not with
    the points that the store has.
    """
    span = _span(database, series, steps)
    if span is None:
        return []
    first, last = span
    between = "FROM points WHERE series = ?1 AND step BETWEEN ?2 AND ?3"
    few = database.execute(
        f"SELECT step, time, value {between} ORDER BY step, time LIMIT ?4", (series, *span, limit + 1)
    )
    if len(points := [tuple(point) for point in few]) <= limit:
        return points
    stretches = max(1, limit // 2)
    width = (last - first + 1) / stretches
    parts = list(segments(first, last + 1, level_for(width), past_of(database)))
    found = " UNION ALL ".join(_part(segment) for segment in parts)
    axis, low = "step", float(first)
    if width < 1:  # many points at few steps: stretches of time
        begin, end = database.execute(f"SELECT MIN(time), MAX(time) {between}", (series, *span)).fetchone()
        axis, low, width = "time", begin, (end - begin + 1e-9) / stretches
    ends = " UNION ".join(
        f"SELECT step, time, {extreme}(value) FROM found GROUP BY CAST(({axis} - ?2) / ?3 AS INTEGER)"
        for extreme in ("MIN", "MAX")
    )
    query = f"WITH found AS MATERIALIZED ({found}) {ends} ORDER BY 1, 2"
    return [tuple(point) for point in database.execute(query, (series, low, width))]


def _span(database: sqlite3.Connection, series: int, steps: tuple[int | None, int | None]) -> tuple[int, int] | None:
    """The first and the last step between two (None: open) that has a point."""
    first, last = (0 if steps[0] is None else steps[0]), (2**53 if steps[1] is None else steps[1])
    ends = [
        database.execute(
            f"SELECT step FROM points WHERE series = ? AND step BETWEEN ? AND ? ORDER BY step {order} LIMIT 1",
            (series, first, last),
        ).fetchone()
        for order in ("ASC", "DESC")
    ]
    return (ends[0][0], ends[1][0]) if ends[0] is not None and ends[1] is not None else None


def _part(segment: Segment) -> str:
    """The query for the points of a segment of series ?1."""
    level, first, end = segment
    where = f"series = ?1 AND step >= {first:d} AND step < {end:d}"
    if level == 0:
        return f"SELECT step, time, value FROM points WHERE {where}"
    return f"SELECT step, time, value FROM peaks WHERE {where} AND level = {level:d}"


class Peaks:
    """The one writer of a store's stretches."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        self._past: int | None = None  # as the store says; None: not looked at

    def forget(self) -> None:
        """The transaction was taken back."""
        self._past = None

    def on_points(self, step: int, series: Sequence[int]) -> None:
        """`step` has new points of `series`."""
        past = self._past = past_of(self._db) if self._past is None else self._past
        if step < past:
            self._write_again(step, series, past)
        elif step >= past + FIRST:
            self.write_to(step // FIRST * FIRST)

    def write_to(self, past: int) -> None:
        """Write every stretch that is not written and ends at step `past` or before."""
        before = past_of(self._db)
        for level in range(1, LEVELS + 1):
            first, end = (step // size(level) * size(level) for step in (before, past))
            if first < end:
                self._write(level, first, end, None)
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (_PAST, str(past)))
        self._past = past

    def _write_again(self, step: int, series: Sequence[int], past: int) -> None:
        numbers = json.dumps(list(series))
        for level in range(1, LEVELS + 1):
            first = step // size(level) * size(level)
            if first + size(level) > past:
                return
            self._db.execute(
                "DELETE FROM peaks WHERE series IN (SELECT value FROM json_each(?)) AND level = ? "
                "AND step >= ? AND step < ?",
                (numbers, level, first, first + size(level)),
            )
            self._write(level, first, first + size(level), numbers)

    def _write(self, level: int, first: int, end: int, numbers: str | None) -> None:
        """The stretches of one level between two steps, from those of the level below; `numbers` of series, as JSON."""
        below = "points" if level == 1 else "peaks"
        of_level = "" if level == 1 else f"AND p.level = {level - 1}"
        wanted = "SELECT id FROM series" if numbers is None else "SELECT value AS id FROM json_each(:numbers)"
        for extreme in ("MIN", "MAX"):
            self._db.execute(
                f"INSERT OR IGNORE INTO peaks SELECT s.id, {level}, p.step, p.time, {extreme}(p.value) "
                f"FROM ({wanted}) s CROSS JOIN {below} p ON p.series = s.id {of_level} "
                f"AND p.step >= :first AND p.step < :end GROUP BY s.id, p.step / {size(level)}",
                {"first": first, "end": end} | ({"numbers": numbers} if numbers is not None else {}),
            )


def past_of(database: sqlite3.Connection) -> int:
    """Below which step all stretches of level 1 are written; those of a level below the last multiple of its size."""
    row = database.execute("SELECT value FROM meta WHERE key = ?", (_PAST,)).fetchone()
    return int(row[0]) if row else 0


def rewrite(database: sqlite3.Connection) -> None:
    """Write all stretches anew: points were taken back, or an earlier Triune had none."""
    database.execute("DELETE FROM peaks")
    database.execute("DELETE FROM meta WHERE key = ?", (_PAST,))
    last = database.execute("SELECT MAX(step) FROM points").fetchone()[0]
    if last is not None:
        Peaks(database).write_to(last // FIRST * FIRST)
