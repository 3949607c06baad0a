"""Every group as a row of a parquet file: one file a training step, one an evaluation.

A file is written under a temporary name and moved, before the transaction that forgets its groups; a writer killed in
between writes the same file again. So no group is doubled or lost.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.monitor.history.facts import is_correct
from services.monitor.history.overlays import predicted_boxes, true_boxes
from shared.messages import Completion, Reward, Scored, unpack_floats, unpack_ints

FOLDER = "samples"

_BOXES = pa.list_(
    pa.struct(
        [("x1", pa.float64()), ("y1", pa.float64()), ("x2", pa.float64()), ("y2", pa.float64()), ("label", pa.string())]
    )
)
_COMPLETION = pa.struct(
    [
        ("text", pa.string()),
        ("tokens", pa.int32()),
        ("finish", pa.string()),
        ("versions", pa.list_(pa.struct([("version", pa.int64()), ("tokens", pa.int32())]))),
        ("status", pa.string()),
        ("reward", pa.float64()),  # null after a verifier error, like accuracy and format
        ("accuracy", pa.float64()),
        ("format", pa.float64()),
        ("parts", pa.map_(pa.string(), pa.float64())),
        ("error", pa.string()),
        ("correct", pa.bool_()),
        ("advantage", pa.float64()),  # null when masked, or not trained
        ("boxes", _BOXES),  # fractions of the image
        ("token_ids", pa.list_(pa.int32())),
        ("log_probs", pa.list_(pa.float32())),
    ]
)
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("ordinal", pa.int64()),
        ("version", pa.int64()),  # evaluated version; null for training groups
        ("step", pa.int64()),  # training step that consumed the group
        ("state", pa.string()),  # scored, trained, void
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("source", pa.string()),
        ("task", pa.string()),
        ("sample_id", pa.string()),
        ("sequence", pa.int64()),  # in the journal
        ("staleness", pa.int64()),
        ("oldest_version", pa.int64()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("images", pa.list_(pa.struct([("digest", pa.string()), ("width", pa.int32()), ("height", pa.int32())]))),
        ("image_grid", pa.list_(pa.list_(pa.int32()))),  # (t, h, w) in patches
        ("patch_size", pa.int32()),
        ("verifier", pa.string()),
        ("answer", pa.string()),
        ("ground_truth", pa.string()),
        ("true_boxes", _BOXES),
        ("prompt_tokens", pa.int32()),
        ("replica", pa.string()),
        ("scorer", pa.string()),
        ("published_at", pa.float64()),  # seconds since the epoch, like the next four
        ("started_at", pa.float64()),
        ("finished_at", pa.float64()),
        ("score_started_at", pa.float64()),
        ("score_finished_at", pa.float64()),
        ("completions", pa.list_(_COMPLETION)),
    ]
)


def step_file(step: int) -> str:
    return f"train-{step:06d}.parquet"


def evaluation_file(version: int) -> str:
    return f"eval-{version:06d}.parquet"


REST_FILE = "train-rest.parquet"
"""Training groups that no step has consumed when the job ends."""


def sample_row(group: Mapping[str, Any], scored: Scored | None, advantages: list[float] | None) -> dict[str, Any]:
    """The row of one group: `group` from the store, `scored` its record (None: void before it was scored).

    `advantages`: one a completion, NaN where masked.
    """
    shared = {name: group[name] for name in SCHEMA.names if name in group}
    row = shared | {"version": group["version"] if group["version"] >= 0 else None}
    return row | _scored_columns(scored, advantages) if scored is not None else row


def _scored_columns(scored: Scored, advantages: list[float] | None) -> dict[str, Any]:
    group, prompt = scored.group, scored.prompt
    given = advantages if advantages is not None and len(advantages) == len(scored.rewards) else None
    return {
        "prompt": [{"role": turn.role, "content": turn.content} for turn in prompt.turns],
        "images": [{"digest": i.blob.digest, "width": i.width, "height": i.height} for i in prompt.images],
        "image_grid": [list(grid) for grid in group.image_grid_thw],
        "patch_size": group.patch_size,
        "verifier": prompt.reward.verifier,
        "answer": prompt.reward.answer,
        "ground_truth": prompt.reward.ground_truth,
        "true_boxes": true_boxes(group),
        "prompt_tokens": len(group.prompt_ids) // 4,
        "completions": [
            _completion(scored, completion, reward, given[index] if given else None)
            for index, (completion, reward) in enumerate(zip(group.completions, scored.rewards, strict=True))
        ],
    }


def _completion(scored: Scored, completion: Completion, reward: Reward, advantage: float | None) -> dict[str, Any]:
    ok = reward.ok
    return {
        "text": completion.text,
        "tokens": completion.num_tokens,
        "finish": completion.finish,
        "versions": [{"version": version, "tokens": tokens} for version, tokens in completion.versions],
        "status": reward.status,
        "reward": reward.final if ok else None,
        "accuracy": reward.accuracy if ok else None,
        "format": reward.format if ok else None,
        "parts": list(reward.parts.items()),
        "error": reward.error,
        "correct": is_correct(scored.prompt.reward.verifier, reward),
        "advantage": None if advantage is None or np.isnan(advantage) else advantage,
        "boxes": predicted_boxes(scored.group, completion.text),
        "token_ids": unpack_ints(completion.token_ids),
        "log_probs": unpack_floats(completion.log_probs),
    }


def write_part(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write `rows` to `folder`/samples/`name`, whole or not at all, on disk when it returns; raises OSError."""
    target = folder / FOLDER / name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    with temporary.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
