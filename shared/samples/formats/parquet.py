"""Parquet files: the groups are row groups."""

from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq

from shared.errors import BadData
from shared.samples.formats.layout import Layout, Row
from shared.samples.places import READ_ERRORS, Place, explained, first_line
from shared.samples.schema import columns_of, schema_faults

BATCH_ROWS = 32
"""Rows that are decoded together; with images of some 100 KB each that is a few MB."""
READ_BYTES = 1 << 20
"""Bytes that are read from a file at once."""
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
        raise BadData("; ".join(faults))
    if largest > MAX_GROUP_BYTES:
        raise BadData(
            f"has a row group of {largest >> 20} MB, which must fit in memory; at most {MAX_GROUP_BYTES >> 20} MB are "
            f"read. `triune data convert {place} OUT` writes it in smaller ones"
        )
    return Layout(counts, tuple(range(len(counts))))


def sources(place: Place, mark: int, rows: int) -> Sequence[str | None]:
    with place.open() as source, pq.ParquetFile(source) as file:
        values: list[str | None] = file.read_row_group(mark, columns=["data_source"], use_threads=False)[0].to_pylist()
        return values


def rows(place: Place, mark: int, rows: int) -> Iterator[Row]:
    # With a buffer pyarrow reads a column chunk piece by piece; without one it reads the row group as a whole.
    with place.open() as source, pq.ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False) as file:
        columns = columns_of(file.schema_arrow)
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[mark], columns=columns, use_threads=False):
            yield from batch.to_pylist()
