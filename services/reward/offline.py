"""Scoring a file of completions, without a server: JSON lines or parquet."""

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from services.reward.config import RewardConfig
from services.reward.http.requests import results
from services.reward.http.wire import ScoreResult, ScoreSample
from services.reward.scoring import Scorer
from shared.errors import BadData, Unavailable

CHUNK = 512
"""Rows that are scored together."""
_FIELDS = frozenset(ScoreSample.__struct_fields__)


def count_rows(path: Path) -> int:
    """Rows of the file; raises BadData when it is no readable .jsonl or .parquet file."""
    try:
        if path.suffix == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        if path.suffix == ".jsonl":
            with path.open("rb") as lines:
                return sum(1 for line in lines if line.strip())
    except (OSError, pa.ArrowException) as error:
        raise BadData(f"{path} cannot be read: {error}") from error
    raise BadData(f"{path} ends in {path.suffix!r}; expected .jsonl or .parquet")


def read_rows(path: Path) -> Iterator[ScoreSample]:
    """The file's samples, a row at a time; raises BadData that names the file, the row (from 1) and the reason.

    A row has the fields of `ScoreSample`, of which `completion` (or `response`), `verifier` and `ground_truth` are
    needed; a `reward_model` table as in Orsta-Data-47k counts for what is absent. Other columns are left alone.
    """
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    for number, row in enumerate(rows, start=1):
        try:
            yield msgspec.convert(_flat(row), ScoreSample)
        except msgspec.ValidationError as error:
            raise BadData(f"{path}, row {number}: {error}") from error


async def score_file(
    path: Path, scorer: Scorer, config: RewardConfig
) -> AsyncIterator[list[tuple[ScoreSample, ScoreResult]]]:
    """The file's results in chunks, in order; raises BadData, and Unavailable when one cannot be judged now."""
    chunk: list[ScoreSample] = []
    for sample in read_rows(path):
        chunk.append(sample)
        if len(chunk) == CHUNK:
            yield await _score(chunk, scorer, config)
            chunk = []
    if chunk:
        yield await _score(chunk, scorer, config)


async def _score(
    chunk: list[ScoreSample], scorer: Scorer, config: RewardConfig
) -> list[tuple[ScoreSample, ScoreResult]]:
    found = await results(chunk, scorer, config.iou_threshold, config.deadline_s)
    for result in found:
        if result.status == "infra-error":
            raise Unavailable(result.error)
    return list(zip(chunk, found, strict=True))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ScoreSample` in a row that may have others, and may nest them as the data set does."""
    nested = row.get("reward_model")
    nested = nested if isinstance(nested, Mapping) else {}
    found = {
        "completion": row.get("response"),
        "params": nested.get("verifier_parm", row.get("verifier_parm")),
        **{name: nested[name] for name in _FIELDS & nested.keys()},
        **{name: row[name] for name in _FIELDS & row.keys() if row[name] is not None},
    }
    return {name: value for name, value in found.items() if value is not None}


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    with path.open("rb") as lines:
        for number, line in enumerate((line for line in lines if line.strip()), start=1):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise BadData(f"{path}, row {number}: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    wanted = _FIELDS | {"response", "reward_model", "verifier_parm"}
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in wanted]
            for batch in file.iter_batches(batch_size=CHUNK, columns=columns):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BadData(f"{path} cannot be read: {error}") from error
