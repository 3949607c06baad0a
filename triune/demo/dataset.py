"""The drawn data set: parquet files in the schema of Orsta-Data-47k, one source a task, train and held-out apart."""

import io
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from shared.samples.schema import RATIO_NAMES, SCHEMA
from triune.demo.tasks import TASKS, Drawn, ground_truth

Split = Literal["train", "test"]

TRAIN_PER_TASK = 800
HELD_OUT_PER_TASK = 192
ROW_GROUP = 128
FORMAT_RATIO = 0.1
ABILITIES = {"detection": "cv_detection", "grounding": "cv_grounding"}
"""How Orsta names the ability where it is not the task's own name."""

_DETECTION_RATIOS = dict.fromkeys(RATIO_NAMES, 0.0) | {"iou_max_label_first": 1.0, "iou_completeness": 0.3}
_TRIES = 10_000  # repeats in a row after which a task has no new image


class DataFiles(NamedTuple):
    """What `make` wrote: the files to train on, and the held-out ones."""

    train: list[Path]
    held_out: list[Path]


def make(
    out: Path,
    *,
    seed: int = 0,
    train_per_task: int = TRAIN_PER_TASK,
    held_out_per_task: int = HELD_OUT_PER_TASK,
    progress: Callable[[int], None] | None = None,
) -> DataFiles:
    """Draw all eight tasks into `out/train` and `out/test`; `progress` is told of every finished row group.

    The same arguments give the same images and texts. No image is in both splits. Raises OSError when `out` cannot be
    written.
    """
    files = DataFiles([], [])
    for task in TASKS:
        held_out = islice(held_out_stream(seed, task), held_out_per_task)
        files.held_out.append(_write(out, "test", task, held_out, held_out_per_task, progress))
        training = islice(training_stream(seed, task, held_out_per_task=held_out_per_task), train_per_task)
        files.train.append(_write(out, "train", task, training, train_per_task, progress))
    return files


def held_out_stream(seed: int, task: str) -> Iterator[Drawn]:
    """Held-out samples of `task`, no image twice; the first ones are the held-out set.

    Raises ValueError when `task` has no other image left.
    """
    seen: set[bytes] = set()
    tries = 0
    for drawn in _stream(seed, "test", task):
        digest = _digest(drawn)
        tries += 1
        if digest not in seen:
            seen.add(digest)
            tries = 0
            yield drawn
        elif tries == _TRIES:
            raise ValueError(f"{task} has {len(seen)} different images at most; more held-out samples were asked for")


def training_stream(seed: int, task: str, *, held_out_per_task: int = HELD_OUT_PER_TASK) -> Iterator[Drawn]:
    """Training samples of `task` without end, none with an image of the first `held_out_per_task` held-out ones.

    The first ones are the training set that `make` writes; a warm start that needs more of them goes on.
    """
    held_out = {_digest(drawn) for drawn in islice(held_out_stream(seed, task), held_out_per_task)}
    return (drawn for drawn in _stream(seed, "train", task) if _digest(drawn) not in held_out)


def _stream(seed: int, split: Split, task: str) -> Iterator[Drawn]:
    rng, draw = Random(f"{seed}/{split}/{task}"), TASKS[task]
    while True:
        yield draw(rng)


def _digest(drawn: Drawn) -> bytes:
    return blake2b(drawn.image.tobytes(), digest_size=16).digest()


def source_name(task: str) -> str:
    """`data_source` of the rows of `task`."""
    return f"drawn_{task}"


def _write(
    out: Path, split: Split, task: str, stream: Iterator[Drawn], count: int, progress: Callable[[int], None] | None
) -> Path:
    """One file, written beside its place and renamed."""
    path = out / split / f"{split}_{task}_drawn_{count}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with pq.ParquetWriter(unfinished, SCHEMA, compression="zstd") as writer:
        for start in range(0, count, ROW_GROUP):
            chunk = islice(stream, min(ROW_GROUP, count - start))
            rows = [row(drawn, split, start + index) for index, drawn in enumerate(chunk)]
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            if progress is not None:
                progress(len(rows))
    unfinished.replace(path)
    return path


def row(drawn: Drawn, split: Split, index: int) -> dict[str, Any]:
    """`drawn` as a row of the Orsta schema."""
    located = drawn.verifier == "detection"
    ratios = _DETECTION_RATIOS if located else dict.fromkeys(RATIO_NAMES)
    sample_id = f"{source_name(drawn.task)}/{split}-{index:06d}"
    return {
        "data_source": source_name(drawn.task),
        "images": [{"bytes": png(drawn), "path": f"{sample_id}.png"}],
        "prompt": [{"content": f"<image>{drawn.question}", "role": "user"}],
        "ability": ABILITIES.get(drawn.task, drawn.task),
        "reward_model": {
            "answer": drawn.truth,
            "ground_truth": ground_truth(drawn),
            "accuracy_ratio": 1.0,
            "format_ratio": FORMAT_RATIO,
            "verifier": drawn.verifier,
            "verifier_parm": {"det_verifier_normalized": True if located else None, "det_reward_ratio": ratios},
        },
        "extra_info": {"id": sample_id, "image_path": f"{sample_id}.png"},
    }


def png(drawn: Drawn) -> bytes:
    """The image's bytes as they stand in the data set."""
    buffer = io.BytesIO()
    drawn.image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
