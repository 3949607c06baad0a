"""Arrow IPC files and streams, as the `datasets` library saves a data set: the groups are record batches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from shared.errors import BadData
from shared.samples.formats.layout import Layout, Row
from shared.samples.formats.parquet import BATCH_ROWS
from shared.samples.places import READ_ERRORS, Place, explained, first_line
from shared.samples.schema import columns_of, in_one_sentence, schema_faults


def look(place: Place) -> Layout:
    try:
        with place.open() as source:
            schema, counts, marks = _index(source)
    except OSError as error:
        raise explained(error, place) from error
    except READ_ERRORS as error:
        raise BadData(f"cannot be read as arrow: {first_line(error)}") from error
    faults = list(schema_faults(schema))
    if faults:
        raise BadData(in_one_sentence(faults))
    return Layout(counts, marks)


def sources(place: Place, layout: Layout) -> Iterator[Sequence[str | None]]:
    for mark in layout.marks:
        with _batch(place, mark) as batch:
            yield batch.column("data_source").to_pylist()


def rows(place: Place, mark: int, rows: int) -> Iterator[Row]:
    with _batch(place, mark) as batch:
        chosen = batch.select(columns_of(batch.schema))
        for start in range(0, chosen.num_rows, BATCH_ROWS):
            yield from chosen.slice(start, BATCH_ROWS).to_pylist()


def _index(source: pa.NativeFile) -> tuple[pa.Schema, tuple[int, ...], tuple[int, ...]]:
    """Schema, rows of each batch, and its number (file) or the byte at which its message begins (stream)."""
    if source.read(6) == b"ARROW1":
        source.seek(0)
        reader = pa.ipc.open_file(source)
        sizes = [reader.get_batch(index).num_rows for index in range(reader.num_record_batches)]
        return reader.schema, tuple(sizes), tuple(range(len(sizes)))
    source.seek(0)
    schema = pa.ipc.read_schema(source)
    counts: list[int] = []
    marks: list[int] = []
    while source.tell() < source.size():
        mark = source.tell()
        try:
            message = pa.ipc.read_message(source)
        except EOFError:  # the end mark of the stream
            break
        if message.type != "record batch":
            raise ValueError(f"a {message.type} in a stream; dictionaries are read from arrow files and parquet alone")
        counts.append(pa.ipc.read_record_batch(message, schema).num_rows)
        marks.append(mark)
    return schema, tuple(counts), tuple(marks)


@contextmanager
def _batch(place: Place, mark: int) -> Iterator[pa.RecordBatch]:
    with place.open() as source:
        if source.read(6) == b"ARROW1":
            source.seek(0)
            yield pa.ipc.open_file(source).get_batch(mark)
        else:
            source.seek(0)
            schema = pa.ipc.read_schema(source)
            source.seek(mark)
            yield pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)
