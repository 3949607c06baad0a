"""The drawn data set: the Orsta schema, disjoint splits, the same seed the same rows."""

import json
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shared.samples.boxes import parse_boxes
from shared.samples.images import probe_image
from shared.samples.schema import SCHEMA
from triune.demo.dataset import held_out_stream, make, training_stream
from triune.demo.tasks import TASKS


def test_files_carry_the_orsta_names_schema_and_feature_description(tmp_path: Path) -> None:
    told: list[int] = []
    files = make(tmp_path, train_per_task=200, held_out_per_task=3, progress=told.append)
    assert [path.name for path in files.train] == [f"train_{task}_drawn_200.parquet" for task in TASKS]
    assert [path.name for path in files.held_out] == [f"test_{task}_drawn_3.parquet" for task in TASKS]
    assert sum(told) == 8 * 203
    file = pq.ParquetFile(files.train[0])
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [128, 72]
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["images"] == {"feature": {"_type": "Image"}, "_type": "Sequence"}
    assert features["prompt"][0]["role"] == {"dtype": "string", "_type": "Value"}
    assert features["reward_model"]["format_ratio"] == {"dtype": "float32", "_type": "Value"}
    assert not list(tmp_path.rglob("*.part"))


def test_rows_have_what_the_verifiers_need(tmp_path: Path) -> None:
    files = make(tmp_path, train_per_task=4, held_out_per_task=4)
    for path in files.train + files.held_out:
        for row in pq.read_table(path).to_pylist():
            reward = row["reward_model"]
            assert row["prompt"][0]["content"].startswith("<image>")
            assert probe_image(row["images"][0]["bytes"]) == (84, 84)
            assert (reward["accuracy_ratio"], reward["format_ratio"]) == (1.0, pytest.approx(0.1))
            assert row["extra_info"]["id"].startswith(row["data_source"])
            if reward["verifier"] == "detection":
                assert parse_boxes(reward["ground_truth"])
                assert reward["verifier_parm"]["det_verifier_normalized"] is True
            else:
                assert reward["ground_truth"] == f"\\boxed{{{reward['answer']}}}"
                assert reward["verifier_parm"]["det_reward_ratio"]["map"] is None


@pytest.mark.parametrize("task", list(TASKS))
def test_no_image_is_held_out_and_trained_on(task: str) -> None:
    held_out = {drawn.image.tobytes() for drawn in islice(held_out_stream(0, task), 192)}
    assert len(held_out) == 192
    assert not held_out & {drawn.image.tobytes() for drawn in islice(training_stream(0, task), 800)}


def test_the_same_seed_makes_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    tables = [
        pq.read_table(make(tmp_path / name, seed=seed, train_per_task=20, held_out_per_task=5).train[2])
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    ]
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])


def test_the_training_set_is_the_beginning_of_the_training_stream(tmp_path: Path) -> None:
    files = make(tmp_path, seed=1, train_per_task=10, held_out_per_task=6)
    for path, task in zip(files.train, TASKS, strict=True):
        stream = islice(training_stream(1, task, held_out_per_task=6), 10)
        contents = [row["prompt"][0]["content"] for row in pq.read_table(path, schema=SCHEMA).to_pylist()]
        assert contents == [f"<image>{drawn.question}" for drawn in stream]
