"""What every format tells of a file: groups of rows, each of which can be read alone."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shared.samples.places import Place

Row = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """`groups` are the rows of each group, `marks` where each begins (bytes; its number where the format counts)."""

    groups: tuple[int, ...]
    marks: tuple[int, ...]


class Format(Protocol):
    """One module of this package."""

    def look(self, place: Place) -> Layout:
        """The file's groups, its columns checked; nothing of a row's images is read. Raises BadData, Unavailable."""

    def sources(self, place: Place, layout: Layout) -> Iterator[Sequence[str | None]]:
        """`data_source` of every row, group by group, in one pass. Raises OSError, ArrowException, ValueError."""

    def rows(self, place: Place, mark: int, rows: int) -> Iterator[Row]:
        """The group's rows as read, a few at a time in memory. Raises as `sources` does."""


def json_object(text: bytes) -> Row:
    """A row's fields; raises ValueError."""
    try:
        row = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(row, dict):
        raise ValueError(f"{type(row).__name__}; expected an object")
    return row
