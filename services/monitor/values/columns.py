"""Groups as the columns of a table, made from the messages' bytes without a Python object a token.

One number a token is one value of bytes a completion, little-endian as in the messages: int32 ids, float32 log-probs
(`np.frombuffer(ids, "<i4")`). In a list of numbers each would carry its levels of nesting, which takes parquet longer
than all other columns together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.monitor.values.answers import Answers
from services.monitor.values.overlays import BOX_VERIFIERS, predicted_boxes, true_boxes
from shared.messages import Scored

_BOXES = pa.list_(
    pa.struct(
        [("x1", pa.float64()), ("y1", pa.float64()), ("x2", pa.float64()), ("y2", pa.float64()), ("label", pa.string())]
    )
)
_PARTS = pa.map_(pa.string(), pa.float64())
_RUN = pa.struct([("version", pa.int64()), ("tokens", pa.int32())])
_COMPLETION = pa.struct(
    [
        ("text", pa.string()),
        ("tokens", pa.int32()),
        ("finish", pa.string()),
        ("versions", pa.list_(_RUN)),
        ("status", pa.string()),
        ("reward", pa.float64()),  # null after a verifier error, like accuracy and format
        ("accuracy", pa.float64()),
        ("format", pa.float64()),
        ("parts", _PARTS),
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
    "prompt_ids": lambda s: s.group.prompt_ids,
    "max_new_tokens": lambda s: s.prompt.sampling.max_new_tokens,
}
"""Columns that follow from a group's record alone."""
_STORED = [name for name in SCHEMA.names if name not in (*_OF_RECORD, "completions")]
"""Columns of the store."""


class Sample(NamedTuple):
    """One group: its columns in the store, its record (None: void before it was scored), and its advantages.

    `advantages`: one a completion, NaN where masked; None: it was not trained.
    """

    group: Mapping[str, Any]
    scored: Scored | None = None
    advantages: Sequence[float] | None = None


def sample_table(samples: Sequence[Sample], answers: Answers) -> pa.Table:
    """One row a group, in `SCHEMA`; `answers` of those samples that have a record, in their order."""
    columns: dict[str, list[Any]] = {name: [sample.group.get(name) for sample in samples] for name in _STORED}
    columns["version"] = [None if version is None or version < 0 else version for version in columns["version"]]
    for name, value_of in _OF_RECORD.items():
        columns[name] = [None if sample.scored is None else value_of(sample.scored) for sample in samples]
    arrays = {name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}
    counts = [None if sample.scored is None else len(sample.scored.rewards) for sample in samples]
    arrays["completions"] = _lists(counts, _completions(answers, _advantages(samples)))
    return pa.Table.from_arrays([arrays[name] for name in SCHEMA.names], schema=SCHEMA)


def _advantages(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """(A,): NaN where a completion has none."""
    given: list[Iterable[float]] = []
    for _, scored, advantages in samples:
        if scored is not None:
            fits = advantages is not None and len(advantages) == len(scored.rewards)
            given.append(advantages if advantages is not None and fits else [np.nan] * len(scored.rewards))
    return np.fromiter(chain.from_iterable(given), np.float64)


def _completions(answers: Answers, advantages: NDArray[np.float64]) -> pa.StructArray:
    completions, rewards = answers.completions, answers.rewards
    columns: dict[str, Any] = {
        "text": answers.texts,
        "tokens": answers.tokens,
        "finish": [completion.finish for completion in completions],
        "versions": _runs(answers),
        "status": [reward.status for reward in rewards],
        "reward": _numbers(answers.final),
        "accuracy": _numbers(answers.accuracy),
        "format": _numbers(answers.format),
        "parts": _parts(answers),
        "error": [reward.error for reward in rewards],
        "correct": answers.correct,
        "advantage": _numbers(advantages),
        "boxes": _boxes(answers),
        "token_ids": [completion.token_ids for completion in completions],
        "log_probs": [completion.log_probs for completion in completions],
    }
    arrays = [
        columns[f.name] if isinstance(columns[f.name], pa.Array) else pa.array(columns[f.name], f.type)
        for f in _COMPLETION
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(_COMPLETION))


def _numbers(values: NDArray[np.float64]) -> pa.Array:
    """Null where there is none."""
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _runs(answers: Answers) -> pa.ListArray:
    runs = np.array([run for completion in answers.completions for run in completion.versions], np.int64).reshape(-1, 2)
    columns = [pa.array(runs[:, 0]), pa.array(runs[:, 1].astype(np.int32))]
    counts = [len(completion.versions) for completion in answers.completions]
    return _lists(counts, pa.StructArray.from_arrays(columns, fields=list(_RUN)))


def _parts(answers: Answers) -> pa.MapArray:
    parts = [reward.parts for reward in answers.rewards]
    names = pa.array([name for some in parts for name in some], pa.string())
    values = pa.array([value for some in parts for value in some.values()], pa.float64())
    return pa.MapArray.from_arrays(_offsets([len(some) for some in parts]), names, values)


def _boxes(answers: Answers) -> pa.ListArray:
    """Only of verifiers that judge boxes."""
    of = [scored.group for scored in answers.groups for _ in scored.rewards]
    boxes: list[list[dict[str, Any]]] = [
        predicted_boxes(group, completion.text) if group.prompt.reward.verifier in BOX_VERIFIERS else []
        for group, completion in zip(of, answers.completions, strict=True)
    ]
    values = pa.array([box for some in boxes for box in some], _BOXES.value_type)
    return _lists([len(some) for some in boxes], values)


def _lists(counts: Sequence[int | None], values: pa.Array) -> pa.ListArray:
    """`values`, one after the other, as lists of so many each; None: null."""
    mask = pa.array([count is None for count in counts], pa.bool_())
    return pa.ListArray.from_arrays(_offsets([count or 0 for count in counts]), values, mask=mask)


def _offsets(counts: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
