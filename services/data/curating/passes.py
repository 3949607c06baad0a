"""How often a model succeeds at each row: the completions of an evaluation, counted, and kept beside the rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import TriuneError

SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("sample_id", pa.string()),
        ("source", pa.string()),
        ("task", pa.string()),
        ("tries", pa.int32()),
        ("passes", pa.int32()),
        ("accuracy", pa.float64()),
        ("void", pa.string()),
    ]
)
"""One row a sample: `tries` completions were judged, `passes` were right, `accuracy` is their mean (IoU of boxes);
`void` says why there is none."""


@dataclass(frozen=True)
class Passes:
    """One sample's tries."""

    shard: str
    row: int
    sample_id: str
    source: str
    task: str
    tries: int
    passes: int
    accuracy: float
    void: str

    @property
    def rate(self) -> float:
        return self.passes / self.tries if self.tries else 0.0


def count_passes(samples: Path, shard: Path, rows: Sequence[int], *, threshold: float) -> list[Passes]:
    """The evaluation in the file `samples` of a run, by row of `shard`; `rows` is the row at each ordinal.

    A completion is right from an accuracy of `threshold` on. Raises TriuneError when a row has no group.
    """
    groups = pq.read_table(samples).to_pylist()
    by_ordinal = {group["ordinal"]: group for group in groups}
    missing = [ordinal for ordinal in range(len(rows)) if ordinal not in by_ordinal]
    if missing:
        raise TriuneError(f"{samples}: {len(missing)} of {len(rows)} rows of {shard.name} have no group")
    found = []
    for ordinal, row in enumerate(rows):
        group = by_ordinal[ordinal]
        accuracies = [one["accuracy"] for one in group["completions"] or [] if one["status"] == "ok"]
        found.append(
            Passes(
                shard.name,
                row,
                group["sample_id"] or "",
                group["source"] or "",
                group["task"] or "",
                len(accuracies),
                sum(accuracy >= threshold for accuracy in accuracies),
                sum(accuracies) / len(accuracies) if accuracies else 0.0,
                "" if accuracies else f"{group['reason'] or 'unverifiable'}: {group['detail'] or ''}".rstrip(": "),
            )
        )
    return found


@dataclass(frozen=True)
class Share:
    """The tries of one source: `right` is the share of its completions that were; rows never and always right."""

    rows: int
    right: float
    never: int
    always: int


def by_source(passes: Sequence[Passes]) -> dict[str, Share]:
    """Rows that could be judged, by source."""
    found = {}
    for source in sorted({one.source for one in passes if one.tries}):
        own = [one for one in passes if one.source == source and one.tries]
        never, always = sum(not one.passes for one in own), sum(one.passes == one.tries for one in own)
        found[source] = Share(len(own), sum(one.rate for one in own) / len(own), never, always)
    return found


def write_passes(path: Path, passes: Sequence[Passes]) -> None:
    unfinished = path.with_name(f"{path.name}.part")
    pq.write_table(pa.Table.from_pylist([vars(one) for one in passes], SCHEMA), unfinished)
    unfinished.replace(path)


def read_passes(path: Path) -> list[Passes]:
    return [Passes(**row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]
