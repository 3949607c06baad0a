"""Parquet files: the groups are row groups."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import pyarrow.parquet as pq

from shared.errors import BadData
from shared.samples.formats.layout import Layout, Row
from shared.samples.places import READ_ERRORS, Place, explained, first_line
from shared.samples.schema import columns_of, in_one_sentence, schema_faults

BATCH_ROWS = 32
"""Rows that are decoded together; with images of some 100 KB each that is a few MB."""
READ_BYTES = 1 << 20
"""Bytes that are read from a file at once."""
_TRUSTED_CHARACTERS = 16
MAX_GROUP_BYTES = 512 << 20
"""Bytes of a row group past which a file is refused: a page of it, which is decoded as a whole, may hold 1,024 rows."""


def look(place: Place) -> Layout:
    try:
        with place.open() as source, pq.ParquetFile(source) as file:
            schema, metadata = file.schema_arrow, file.metadata
            groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
            counts = tuple(group.num_rows for group in groups)
            largest = max((group.total_byte_size for group in groups), default=0)
    except OSError as error:
        raise explained(error, place) from error
    except READ_ERRORS as error:
        raise BadData(f"cannot be read as parquet: {first_line(error)}") from error
    faults = list(schema_faults(schema))
    if faults:
        raise BadData(in_one_sentence(faults))
    if largest > MAX_GROUP_BYTES:
        raise BadData(
            f"has a row group of {largest >> 20} MB, which must fit in memory; at most {MAX_GROUP_BYTES >> 20} MB are "
            f"read. `triune data convert {place} OUT` writes it in smaller ones"
        )
    return Layout(counts, tuple(range(len(counts))))


def sources(place: Place, layout: Layout) -> Iterator[Sequence[str | None]]:
    """A group whose statistics say that it has one source is not read."""
    with place.open() as source, pq.ParquetFile(source) as file:
        metadata = file.metadata
        column = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == "data_source")
        for group, rows in enumerate(layout.groups):
            only = _only_value(metadata.row_group(group).column(column).statistics)
            if only is not None:
                yield [only] * rows
            else:
                yield file.read_row_group(group, columns=["data_source"], use_threads=False)[0].to_pylist()


def _only_value(statistics: pq.Statistics | None) -> str | None:
    """The value of all rows of a group, if its statistics tell; long ones may be cut and do not."""
    if statistics is None or not statistics.has_min_max or not statistics.has_null_count or statistics.null_count:
        return None
    least, greatest = statistics.min, statistics.max
    return least if isinstance(least, str) and least == greatest and len(least) < _TRUSTED_CHARACTERS else None


def rows(place: Place, mark: int, rows: int) -> Iterator[Row]:
    # With a buffer pyarrow reads a column chunk piece by piece; without one it reads the row group as a whole.
    info = place.info()
    footer = _footer(place, info.size, info.mtime_ns)
    with (
        place.open() as source,
        pq.ParquetFile(source, metadata=footer, buffer_size=READ_BYTES, pre_buffer=False) as file,
    ):
        columns = columns_of(file.schema_arrow)
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[mark], columns=columns, use_threads=False):
            yield from batch.to_pylist()


@lru_cache(maxsize=4)
def _footer(place: Place, size: int, changed_ns: int) -> pq.FileMetaData:
    """Parsed once a file, not once a group: the footer grows with the groups."""
    with place.open() as source, pq.ParquetFile(source) as file:
        return file.metadata
