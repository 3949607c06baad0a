"""Groups as the columns of a table, made from the messages' bytes without a Python object a token.

One number a token is one value of bytes a completion, little-endian as in the messages: int32 ids, float32 log-probs
(`np.frombuffer(ids, "<i4")`). In a list of numbers each would carry its levels of nesting, which takes parquet longer
than all other columns together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from services.monitor.history.facts import is_correct
from services.monitor.history.overlays import predicted_boxes, true_boxes
from shared.messages import Completion, Reward, Scored

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
        ("token_ids", pa.binary()),  # int32
        ("log_probs", pa.binary()),  # float32
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
        ("prompt_ids", pa.binary()),  # int32, as the model saw it, image placeholders expanded
        ("max_new_tokens", pa.int32()),
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
_OF_RECORD: Mapping[str, Callable[[Scored], Any]] = {
    "prompt": lambda s: [{"role": turn.role, "content": turn.content} for turn in s.prompt.turns],
    "images": lambda s: [
        {"digest": image.blob.digest, "width": image.width, "height": image.height} for image in s.prompt.images
    ],
    "image_grid": lambda s: [list(grid) for grid in s.group.image_grid_thw],
    "patch_size": lambda s: s.group.patch_size,
    "verifier": lambda s: s.prompt.reward.verifier,
    "answer": lambda s: s.prompt.reward.answer,
    "ground_truth": lambda s: s.prompt.reward.ground_truth,
    "true_boxes": lambda s: true_boxes(s.group),
    "prompt_tokens": lambda s: len(s.group.prompt_ids) // 4,
    "max_new_tokens": lambda s: s.prompt.sampling.max_new_tokens,
}
"""Columns that follow from a group's record alone."""
_STORED = [name for name in SCHEMA.names if name not in (*_OF_RECORD, "prompt_ids", "completions")]
"""Columns of the store."""


class Sample(NamedTuple):
    """One group: its columns in the store, its record (None: void before it was scored), and its advantages.

    `advantages`: one a completion, NaN where masked; None: it was not trained.
    """

    group: Mapping[str, Any]
    scored: Scored | None = None
    advantages: Sequence[float] | None = None


class _Answer(NamedTuple):
    scored: Scored
    completion: Completion
    reward: Reward
    advantage: float | None


def sample_table(samples: Sequence[Sample]) -> pa.Table:
    """One row a group, in `SCHEMA`."""
    records = [sample.scored for sample in samples]
    groups = [sample.group for sample in samples]
    columns: dict[str, list[Any]] = {name: [group.get(name) for group in groups] for name in _STORED}
    columns["version"] = [None if version is None or version < 0 else version for version in columns["version"]]
    for name, value_of in _OF_RECORD.items():
        columns[name] = [None if record is None else value_of(record) for record in records]
    arrays = {
        "prompt_ids": pa.array([r.group.prompt_ids if r else None for r in records], pa.binary()),
        "completions": _completions(samples),
    }
    return pa.Table.from_arrays(
        [arrays[f.name] if f.name in arrays else pa.array(columns[f.name], f.type) for f in SCHEMA], schema=SCHEMA
    )


def _completions(samples: Sequence[Sample]) -> pa.ListArray:
    answers = [answer for sample in samples for answer in _answers(sample)]
    counts = [None if sample.scored is None else len(sample.scored.rewards) for sample in samples]
    values = _answer_columns(answers)
    fields = [pa.array(values[f.name], f.type) for f in _COMPLETION]
    return _lists(counts, pa.StructArray.from_arrays(fields, fields=list(_COMPLETION)))


def _answers(sample: Sample) -> Iterator[_Answer]:
    scored, given = sample.scored, sample.advantages
    if scored is None:
        return
    fits = given is not None and len(given) == len(scored.rewards)
    for index, (completion, reward) in enumerate(zip(scored.group.completions, scored.rewards, strict=True)):
        advantage = given[index] if given is not None and fits else None
        yield _Answer(scored, completion, reward, None if advantage is None or np.isnan(advantage) else advantage)


def _answer_columns(answers: Sequence[_Answer]) -> dict[str, list[Any]]:
    return {
        "text": [a.completion.text for a in answers],
        "tokens": [a.completion.num_tokens for a in answers],
        "finish": [a.completion.finish for a in answers],
        "versions": [[{"version": v, "tokens": n} for v, n in a.completion.versions] for a in answers],
        "status": [a.reward.status for a in answers],
        "reward": [a.reward.final if a.reward.ok else None for a in answers],
        "accuracy": [a.reward.accuracy if a.reward.ok else None for a in answers],
        "format": [a.reward.format if a.reward.ok else None for a in answers],
        "parts": [list(a.reward.parts.items()) for a in answers],
        "error": [a.reward.error for a in answers],
        "correct": [is_correct(a.scored.prompt.reward.verifier, a.reward) for a in answers],
        "advantage": [a.advantage for a in answers],
        "boxes": [predicted_boxes(a.scored.group, a.completion.text) for a in answers],
        "token_ids": [a.completion.token_ids for a in answers],
        "log_probs": [a.completion.log_probs for a in answers],
    }


def _lists(counts: Sequence[int | None], values: pa.Array) -> pa.ListArray:
    """`values`, one after the other, as lists of so many each; None: null."""
    offsets = np.fromiter(accumulate((count or 0 for count in counts), initial=0), np.int32, len(counts) + 1)
    mask = pa.array([count is None for count in counts], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=mask)
