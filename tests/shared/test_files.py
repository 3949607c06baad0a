"""What is told of data files at submit: names, schema, readability."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import BadData
from shared.messages import source_name
from shared.samples.files import count_rows, inspect_files, open_file, open_files
from shared.samples.places import Place
from shared.samples.schema import SCHEMA


def rows(*sources: str | None) -> list[dict[str, object]]:
    return [
        {
            "data_source": source,
            "images": [{"bytes": b"x", "path": "x.png"}],
            "prompt": [{"content": "<image>?", "role": "user"}],
            "ability": "math",
            "reward_model": {"answer": "4", "ground_truth": "\\boxed{4}", "verifier": "mathverify"},
            "extra_info": {"id": None, "image_path": "x.png"},
        }
        for source in sources
    ]


def write(path: Path, *sources: str | None, schema: pa.Schema = SCHEMA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows(*sources), schema), path, row_group_size=2)
    return path


def test_rows_are_counted_by_source_over_files_and_row_groups(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", "x", "x", "y/Z", None, "x")
    write(tmp_path / "b.parquet", "x", "y/Z")
    files = open_files([str(tmp_path)])
    assert [file.groups for file in files] == [(2, 2, 1), (2,)]
    assert count_rows(files) == {"unknown": 1, "x": 4, "y_z": 2}


def test_all_bad_files_are_listed_at_once(tmp_path: Path) -> None:
    write(tmp_path / "good.parquet", "s")
    write(tmp_path / "empty.parquet")
    (tmp_path / "text.parquet").write_text("a,b\n1,2\n")
    files, problems = inspect_files([str(tmp_path)])
    assert [file.place.name for file in files] == ["good.parquet"]
    assert len(problems) == 2 and all("\n" not in str(problem) for problem in problems)
    with pytest.raises(BadData, match="has no rows") as raised:
        open_files([str(tmp_path)])
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (SCHEMA.remove(4), "column reward_model is missing"),
        (
            SCHEMA.set(2, pa.field("prompt", pa.string())),
            "column prompt is string; expected list<struct<content: string, role: string>>",
        ),
        (
            SCHEMA.set(1, pa.field("images", pa.list_(pa.struct([("pixels", pa.string())])))),
            "column images is list<struct<pixels: string>>; expected list<struct<bytes: binary, path: string>>",
        ),
        (
            SCHEMA.set(4, pa.field("reward_model", pa.struct([("ground_truth", pa.float64())]))),
            "column reward_model.ground_truth is double; expected string; column reward_model.verifier is missing",
        ),
    ],
    ids=["missing", "type", "inner", "two"],
)
def test_a_column_that_is_missing_or_of_another_type_is_named(tmp_path: Path, schema: pa.Schema, reason: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(schema.empty_table(), path)
    with pytest.raises(BadData) as raised:
        open_file(Place(str(path)))
    made = "`triune data convert` makes such a file of verl's, TRL's or a plain table's columns"
    assert str(raised.value) == f"{path}: {reason}. {made}"


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        ([{"question": "1?"}, {"question": "2?"}], ["data_source", "prompt", "reward_model"]),
        ([{"data_source": "a", "prompt": [], "reward_model": {"ground_truth": "1"}}], ["reward_model.verifier"]),
        ([{"data_source": "a", "prompt": []}, {"reward_model": {"ground_truth": "1", "verifier": "exact"}}], []),
    ],
    ids=["a plain table", "verl", "each in some line"],
)
def test_a_column_that_no_line_has_is_named_once(tmp_path: Path, lines: list[object], missing: list[str]) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files, problems = inspect_files([str(tmp_path)])
    told = "; ".join(f"column {name} is missing" for name in missing)
    assert [problem.reason.split(". ")[0] for problem in problems] == ([told] if missing else [])
    assert all("`triune data convert`" in problem.reason for problem in problems)
    assert len(files) == (0 if missing else 1)


def test_types_that_read_alike_and_absent_optional_columns_are_fine(tmp_path: Path) -> None:
    large = pa.schema(
        [
            ("data_source", pa.dictionary(pa.int32(), pa.string())),
            ("images", pa.large_list(pa.struct([("bytes", pa.large_binary()), ("path", pa.string())]))),
            ("prompt", pa.list_(pa.struct([("content", pa.large_string()), ("role", pa.string())]))),
            (
                "reward_model",
                pa.struct([("answer", pa.null()), ("ground_truth", pa.string()), ("verifier", pa.string())]),
            ),
        ]
    )
    path = tmp_path / "a.parquet"
    table = pa.table(
        [
            pa.array(["s"]).dictionary_encode(),
            pa.array([[{"bytes": b"x", "path": None}]], large.field("images").type),
            pa.array([[{"content": "<image>", "role": "user"}]], large.field("prompt").type),
            pa.array([{"answer": None, "ground_truth": "4", "verifier": "exact"}], large.field("reward_model").type),
        ],
        schema=large,
    )
    pq.write_table(table, path)
    assert open_file(Place(str(path))).rows == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [("MM/Math", "mm_math"), ("a b.c", "a_b_c"), ("ok-1_2", "ok-1_2"), ("", "unknown"), (None, "unknown")],
)
def test_source_names_are_metric_labels(name: str | None, expected: str) -> None:
    assert source_name(name) == expected
