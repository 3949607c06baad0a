"""`metrics.parquet`: every point of every series of a run."""

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.monitor.history.queries import Reader

METRICS_NAME = "metrics.parquet"
METRICS_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("time", pa.float64()),  # seconds since the epoch
        ("name", pa.string()),
        ("source", pa.string()),  # empty: all sources
        ("value", pa.float64()),
        ("task", pa.string()),  # empty: all tasks
    ]
)
_ROWS_AT_ONCE = 5_000


def write_metrics(folder: Path, reader: Reader) -> None:
    """Every point of every series in `metrics.parquet`; memory holds one row group at a time."""
    temporary = folder / f"{METRICS_NAME}.tmp"
    points = reader.all_points()
    with pq.ParquetWriter(temporary, METRICS_SCHEMA, compression="zstd") as writer:
        while rows := list(itertools.islice(points, _ROWS_AT_ONCE)):
            step, at, name, source, task, value = zip(*rows, strict=True)
            columns = [step, at, name, source, value, task]
            writer.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], schema=METRICS_SCHEMA))
    temporary.replace(folder / METRICS_NAME)
    pa.default_memory_pool().release_unused()  # it took several times what groups take, and comes once a minute
