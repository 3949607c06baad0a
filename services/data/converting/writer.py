"""Drafts written as parquet files: row groups that fit in memory, whole files by renaming, going on after a death.

Beside the files lies `convert.json`: how many drafts the finished files hold and what was left out. A conversion that
was ended begins behind them; drafts come in the same order, so nothing is twice.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.data.converting.reasons import Reasons
from services.data.converting.rows import Draft, Drafts, Row
from shared.errors import BadSample, UserError
from shared.samples.schema import SCHEMA

GROUP_BYTES = 64 << 20
"""Bytes of images and text past which a row group is ended."""
GROUP_ROWS = 256
FILE_ROWS = 4096
"""Drafts of one file; a conversion that was ended loses at most so many."""
STATE = "convert.json"


@dataclass
class Progress:
    """Where a conversion is: drafts seen, rows written, and what was left out, by reason."""

    drafts: int = 0
    rows: int = 0
    files: list[str] = field(default_factory=list)
    left_out: Reasons = field(default_factory=Reasons)
    origin: str = ""


def write(
    drafts: Drafts, out: Path, *, origin: str, name: str, advance: Callable[[int], None], file_rows: int | None = None
) -> Progress:
    """Writes what is not written yet; `advance` is told how many drafts are done. `origin` names source and options.

    Raises UserError when `out` holds something else, OSError when it cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    progress = resume(out, origin)
    advance(progress.drafts)
    rest = itertools.islice(drafts, progress.drafts, None)
    while chunk := list(itertools.islice(rest, file_rows or FILE_ROWS)):
        path = out / f"{name}-{len(progress.files):05d}.parquet"
        rows = _write_file(chunk, path, progress.left_out, advance)
        progress.drafts += len(chunk)
        progress.rows += rows
        if rows:
            progress.files.append(path.name)
        if progress.rows:  # without a row there is nothing to go on from, and the next try may have other options
            _save(out, progress)
    return progress


def resume(out: Path, origin: str) -> Progress:
    """How far the folder `out` is; raises UserError when it holds something else."""
    state = out / STATE
    if not state.exists():
        if any(out.glob("*.parquet")):
            raise UserError(f"{out} holds parquet files of another origin; expected a new or an empty folder")
        return Progress(origin=origin)
    saved: dict[str, Any] = json.loads(state.read_text())
    if saved["origin"] != origin:
        raise UserError(f"{out} holds a conversion of {saved['origin']}; expected a new or an empty folder")
    return Progress(**saved | {"left_out": Reasons(**saved["left_out"])})


def _save(out: Path, progress: Progress) -> None:
    unfinished = out / f"{STATE}.part"
    unfinished.write_text(json.dumps(vars(progress) | {"left_out": vars(progress.left_out)}, indent=1))
    unfinished.replace(out / STATE)


def _write_file(chunk: list[Draft], path: Path, left_out: Reasons, advance: Callable[[int], None]) -> int:
    """One file, written beside its place and renamed; returns its rows. A file without rows is not there."""
    unfinished = path.with_name(f"{path.name}.part")
    written, size = 0, 0
    group: list[Row] = []
    with pq.ParquetWriter(unfinished, SCHEMA, compression="zstd", data_page_size=1 << 20, write_batch_size=8) as writer:
        for draft in chunk:
            try:
                row = draft.make()
            except BadSample as error:
                left_out.add(error)
            else:
                group.append(row)
                size += _bytes(row)
            if group and (size >= GROUP_BYTES or len(group) >= GROUP_ROWS):
                written += _flush(group, writer)
                group, size = [], 0
            advance(1)
        written += _flush(group, writer)
    if written:
        unfinished.replace(path)
    else:
        unfinished.unlink()
    return written


def _flush(group: list[Row], writer: pq.ParquetWriter) -> int:
    if group:
        writer.write_table(pa.Table.from_pylist(group, SCHEMA), row_group_size=len(group))
    return len(group)


def _bytes(row: Row) -> int:
    return 1024 + sum(len(image["bytes"] or b"") for image in row["images"])
