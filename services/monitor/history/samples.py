"""Every group as a row of a parquet file: one file a training step, one an evaluation.

A file is written under a temporary name and moved, before the transaction that forgets its groups; a writer killed in
between writes the same file again. So no group is doubled or lost.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.monitor.values.columns import SCHEMA

FOLDER = "samples"
REST_FILE = "train-rest.parquet"
"""Training groups that no step has consumed when the job ends."""
GROUPS_TOGETHER = 64
"""Rows of a row group: who looks at one group reads so many, of the columns that are asked for."""


def _leaves(field: pa.Field, above: str = "") -> Iterator[str]:
    """The paths of a field's columns in a parquet file."""
    path, kind = f"{above}{field.name}", field.type
    if pa.types.is_struct(kind):
        for child in kind:
            yield from _leaves(child, f"{path}.")
    elif pa.types.is_map(kind):
        yield from (f"{path}.key_value.key", f"{path}.key_value.value")
    elif pa.types.is_list(kind):
        yield from _leaves(kind.value_field.with_name("element"), f"{path}.list.")
    else:
        yield path


_COLUMNS = [path for field in SCHEMA for path in _leaves(field)]
_NUMBERS = ("prompt_ids", "completions.list.element.token_ids", "completions.list.element.log_probs")
_LARGE = (*_NUMBERS, "completions.list.element.text")
_TEXTS = ("prompt.list.element.content", "completions.list.element.text")
_ORDINAL = _COLUMNS.index("ordinal")
SHOWN_COLUMNS = [path for path in _COLUMNS if path not in _NUMBERS]
"""All but one number a token: those are for programs."""
_WRITING: dict[str, Any] = {
    # Numbers of tokens hardly repeat, and to compress the answers would take longer than to write them.
    "compression": dict.fromkeys(_COLUMNS, "lz4") | dict.fromkeys(_LARGE, "none"),
    "use_dictionary": [path for path in SHOWN_COLUMNS if path not in _TEXTS],
    "write_statistics": ["ordinal"],
}


def step_file(step: int) -> str:
    return f"train-{step:06d}.parquet"


def evaluation_file(version: int) -> str:
    return f"eval-{version:06d}.parquet"


def write_part(folder: Path, name: str, tables: Iterable[pa.Table]) -> None:
    """Write `tables` to `folder`/samples/`name`, whole or not at all, on disk when it returns; raises OSError.

    Each is a row group: of `GROUPS_TOGETHER` rows at most.
    """
    target = folder / FOLDER / name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    with temporary.open("wb") as file:
        with pq.ParquetWriter(file, SCHEMA, **_WRITING) as writer:
            for table in tables:
                writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)


def read_part(folder: Path, name: str, ordinals: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of these groups in a file, without their tokens; none when there is no such file."""
    path, wanted = folder / FOLDER / name, sorted(set(ordinals))
    if not path.exists():
        return []
    found: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            held = file.metadata.row_group(number).column(_ORDINAL).statistics
            if any(held.min <= ordinal <= held.max for ordinal in wanted):
                table = file.read_row_group(number, columns=SHOWN_COLUMNS)
                found += table.filter(pc.is_in(table["ordinal"], pa.array(wanted))).to_pylist()
    return found
