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
