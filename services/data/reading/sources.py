"""Which rows of which files each source has, by group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.samples.files import DataFile, file_sources


@dataclass(frozen=True)
class Segment:
    """The rows of one source in one row group: `rows` are their places in the group, rising."""

    file: DataFile
    group: int
    rows: Sequence[int]


def index_sources(files: Iterable[DataFile]) -> dict[str, list[Segment]]:
    """Every source's segments in file order, by source name; reads one column of parquet. Raises BadData, Unavailable.

    Costs a range a row group where a file has one source, as Orsta's have; a number a row where sources are mixed.
    """
    index: dict[str, list[Segment]] = {}
    for file in files:
        for group, names in enumerate(file_sources(file)):
            for source, rows in _by_source(names).items():
                index.setdefault(source, []).append(Segment(file, group, rows))
    return dict(sorted(index.items()))


def _by_source(names: list[str]) -> dict[str, Sequence[int]]:
    if len(set(names)) == 1:
        return {names[0]: range(len(names))}
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return dict(rows)
