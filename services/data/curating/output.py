"""The curated rows as files that a job reads, in the order in which they were selected."""

import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from services.data.converting.rows import Draft
from services.data.converting.writer import write
from services.data.curating.passes import Passes
from services.data.reading.sources import index_sources
from shared.samples.files import DataFile, read_group
from shared.samples.schema import cast_row


def evaluated_rows(shard: DataFile) -> list[int]:
    """The row of a shard at each ordinal of its evaluation: source by source, as the held-out order is."""
    segments = [segment for segments in index_sources([shard]).values() for segment in segments]
    return [shard.first_row(segment.group) + row for segment in segments for row in segment.rows]


def untried(shard: DataFile) -> list[Passes]:
    """Every row of a shard that no model has tried."""
    return [Passes(shard.place.name, row, "", "", "", 0, 0, 0.0, "") for row in range(shard.rows)]


def write_selected(kept: Sequence[Passes], shards: Mapping[str, DataFile], out: Path) -> int:
    """Writes the folder `out` anew; returns its rows."""
    if out.exists():
        shutil.rmtree(out)

    @lru_cache(maxsize=2)
    def group_rows(shard: str, group: int) -> list[dict[str, Any]]:
        return [cast_row(row) for row in read_group(shards[shard], group)]

    def draft(one: Passes) -> Draft:
        def make() -> dict[str, Any]:
            file = shards[one.shard]
            group = next(index for index in range(len(file.groups)) if one.row < file.first_row(index + 1))
            return group_rows(one.shard, group)[one.row - file.first_row(group)]

        return Draft(f"{one.shard}#{one.row}", make)

    return write(map(draft, kept), out, origin="curated", name="curated", advance=lambda _: None).rows
