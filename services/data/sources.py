"""Rows of parquet files, streamed by row group: what is in memory is a few rows, never a file."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from shared.errors import BadData, Unavailable
from shared.samples.schema import READ_ERRORS, SCHEMA, DataFile, first_line, group_sources

BATCH_ROWS = 32
"""Rows that are decoded together; with images of some 100 KB each that is a few MB."""
READ_BYTES = 1 << 20
"""Bytes that are read from a file at once."""


@dataclass(frozen=True)
class Segment:
    """The rows of one source in one row group: `rows` are their places in the group, rising."""

    file: DataFile
    group: int
    rows: Sequence[int]


def index_sources(files: Iterable[DataFile]) -> dict[str, list[Segment]]:
    """Every source's segments in file order, by source name; reads one column. Raises BadData.

    Costs a range a row group where a file has one source, as Orsta's have; a number a row where sources are mixed.
    """
    index: dict[str, list[Segment]] = {}
    for file in files:
        for group in range(len(file.groups)):
            for source, rows in _by_source(group_sources(file, group)).items():
                index.setdefault(source, []).append(Segment(file, group, rows))
    return dict(sorted(index.items()))


def _by_source(names: list[str]) -> dict[str, Sequence[int]]:
    if len(set(names)) == 1:
        return {names[0]: range(len(names))}
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return dict(rows)


def read_group(file: DataFile, group: int) -> Iterator[dict[str, Any]]:
    """The rows of one row group in order, as dicts.

    Raises BadData where the file is torn or no parquet, Unavailable where the system cannot read it now (it gives an
    error number then: a stale handle, a disk or a share that is away).
    """
    try:
        # With a buffer pyarrow reads a column chunk piece by piece; without one it reads the row group as a whole.
        with pq.ParquetFile(file.path, buffer_size=READ_BYTES, pre_buffer=False) as parquet:
            columns = [name for name in SCHEMA.names if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
                yield from batch.to_pylist()
    except READ_ERRORS as error:
        sentence = f"{file.path}: row group {group} cannot be read: {first_line(error)}"
        if isinstance(error, OSError) and error.errno is not None:
            raise Unavailable(sentence) from error
        raise BadData(sentence) from error


def first_row(file: DataFile, group: int) -> int:
    """The place in the file of the group's first row."""
    return sum(file.groups[:group])
