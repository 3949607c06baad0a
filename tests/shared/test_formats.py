"""The same rows in every format and under every type that can be cast: read alike, group by group."""

import copy
import io
import json
import tarfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data.reading.images import beside
from services.data.reading.sample import read_row
from shared.errors import BadData, BadSample
from shared.samples.files import DataFile, count_rows, inspect_files, open_file, read_group
from shared.samples.formats import jsonl, parquet, tar
from shared.samples.places import ANYWHERE, Place, Roots
from shared.samples.schema import SCHEMA, cast_row
from tests.data.rows import math_row, png

Writer = Callable[[Path, list[dict[str, Any]]], Path]


def as_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "a.parquet", row_group_size=3)
    return folder / "a.parquet"


def as_arrow_stream(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """As `Dataset.save_to_disk` writes it."""
    table = pa.Table.from_pylist(rows, SCHEMA)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return folder / "data-00000-of-00001.arrow"


def as_arrow_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(rows, SCHEMA)
    with pa.ipc.new_file(folder / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return folder / "a.arrow"


def as_jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Images beside the file, by path."""
    (folder / "images").mkdir()
    lines = []
    for number, row in enumerate(copy.deepcopy(rows)):
        for place, image in enumerate(row["images"]):
            name = f"images/{number}-{place}.png"
            (folder / name).write_bytes(image["bytes"])
            row["images"][place] = name
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def as_tar(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """As WebDataset writes it: members of one name stand together."""
    with tarfile.open(folder / "rows.tar", "w") as archive:
        for number, row in enumerate(copy.deepcopy(rows)):
            for place, image in enumerate(row.pop("images")):
                add(archive, f"d/{number:04}.{place}.png", image["bytes"])
            add(archive, f"d/{number:04}.json", json.dumps(row).encode())
    return folder / "rows.tar"


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def rows_of(file: DataFile) -> list[dict[str, Any]]:
    return [row for group in range(len(file.groups)) for row in read_group(file, group)]


@pytest.mark.parametrize("write", [as_parquet, as_arrow_stream, as_arrow_file, as_jsonl, as_tar])
def test_every_format_holds_the_same_samples(tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "GROUP_ROWS", 3)
    monkeypatch.setattr(tar, "GROUP_ROWS", 3)
    rows = [math_row(i, "a" if i % 2 else "b") for i in range(7)]
    rows[5]["images"] *= 2
    rows[5]["prompt"][0]["content"] = "<image><image>Which?"
    rows[6] |= {"images": [], "prompt": [{"content": "No image at all?", "role": "user"}]}
    path = write(tmp_path, rows)
    (file,), problems = inspect_files([str(tmp_path)])
    assert not problems and (str(file.place), file.groups) == (str(path), (3, 3, 1))
    assert count_rows([file]) == {"a": 3, "b": 4}
    load = beside(file.place, ANYWHERE)
    samples = [read_row(row, "x", load) for row in rows_of(file)]
    expected = [read_row(row, "x", load) for row in rows]
    assert samples == expected
    assert [row["extra_info"]["id"] for row in read_group(file, 1)] == ["a/3", "b/4", "a/5"]  # alone, without the first


def test_a_path_in_a_row_is_read_under_the_roots_only(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "in/a.png").write_bytes(png())
    load = beside(Place(str(tmp_path / "in/rows.jsonl")), Roots.of([str(tmp_path / "in")]))
    assert load("a.png") == load(f"file://{tmp_path}/in/a.png") == png()
    for path in ("../secret.png", str(tmp_path / "secret.png"), f"file://{tmp_path}/secret.png"):
        with pytest.raises(BadSample, match="outside the data roots"):
            load(path)
    with pytest.raises(BadSample, match=r"none\.png: cannot be read"):
        load("none.png")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"data_source": "a"}\nnot json\n', "line 2 is no JSON object: Expecting value"),
        ("[1]\n", "line 1 is no JSON object: list; expected an object"),
        ("[" * 100_000 + "\n", "line 1 is no JSON object: nested too deep"),
        ("\n\n", "has no rows"),
        ("x" * (17 << 20), "a line of more than 16 MB"),
    ],
    ids=["text", "list", "deep", "empty", "long"],
)
def test_lines_that_are_no_rows_make_the_file_unusable(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(BadData, match=reason):
        open_file(Place(str(tmp_path / "a.jsonl")))


def test_a_tar_without_rows_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "0001.png", png())
    with pytest.raises(BadData, match=r"row 0 has no json member beside 0001\.png"):
        open_file(Place(str(tmp_path / "a.tar")))
    (tmp_path / "b.tar").write_bytes(b"x" * 2000)
    with pytest.raises(BadData, match="cannot be read as tar"):
        open_file(Place(str(tmp_path / "b.tar")))


def test_a_tar_whose_rows_lack_a_column_is_refused_with_what_makes_it(tmp_path: Path) -> None:
    rows = [{name: value for name, value in math_row(i).items() if name != "reward_model"} for i in range(2)]
    path = as_tar(tmp_path, rows)
    with pytest.raises(BadData, match=r"column reward_model is missing\. `triune data convert` makes such a file"):
        open_file(Place(str(path)))


@pytest.mark.parametrize("fields", [b"not json", b"[1]", b"[" * 100_000], ids=["text", "list", "deep"])
def test_a_row_of_a_tar_that_is_no_object_is_that_rows_fault(tmp_path: Path, fields: bytes) -> None:
    whole = as_tar(tmp_path, [math_row(0)])
    with tarfile.open(whole, "a") as archive:
        add(archive, "bad.json", fields)
    layout = tar.look(Place(str(whole)))
    assert layout.groups == (2,)
    rows = tar.rows(Place(str(whole)), layout.marks[0], 2)
    assert next(rows)["data_source"] == math_row(0)["data_source"]
    with pytest.raises(ValueError, match=r"member bad\.json is no JSON object: "):
        next(rows)


def test_a_row_group_that_does_not_fit_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 1000)
    path = as_parquet(tmp_path, [math_row(i) for i in range(3)])
    with pytest.raises(BadData, match=rf"row group .* must fit in memory.*`triune data convert {path} OUT`"):
        open_file(Place(str(path)))


def column(name: str, kind: pa.DataType, value: Any) -> dict[str, pa.Array]:
    """One row whose column `name` is of `kind`; the others are as the schema has them."""
    table = pa.Table.from_pylist([math_row()], SCHEMA)
    columns = {field.name: table.column(field.name) for field in table.schema}
    return columns | {name: pa.array([value], kind)}


TEXT = {"large": pa.large_string(), "view": pa.string_view(), "category": pa.dictionary(pa.int8(), pa.string())}


@pytest.mark.parametrize("kind", TEXT.values(), ids=TEXT)
def test_text_of_any_kind_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    columns = column("data_source", kind, "numbers")
    turns = pa.large_list(pa.struct([("content", kind), ("role", kind)]))
    columns["prompt"] = pa.array([[{"content": "<image>?", "role": "user"}]], turns)
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (row,) = rows_of(open_file(Place(str(tmp_path / "a.parquet"))))
    cast = cast_row(row)
    assert cast["data_source"] == "numbers" and cast["prompt"] == [{"content": "<image>?", "role": "user"}]


def reward(**fields: tuple[pa.DataType, Any]) -> tuple[pa.DataType, dict[str, Any]]:
    known = {"ground_truth": (pa.string(), "4"), "verifier": (pa.string(), "exact")} | fields
    return pa.struct([(name, kind) for name, (kind, _) in known.items()]), {n: v for n, (_, v) in known.items()}


@pytest.mark.parametrize(
    ("field", "kind", "value", "expected"),
    [
        ("accuracy_ratio", pa.decimal128(3, 2), Decimal("0.25"), 0.25),
        ("accuracy_ratio", pa.decimal256(40, 1), Decimal("1.0"), 1.0),
        ("accuracy_ratio", pa.int8(), 1, 1.0),
        ("accuracy_ratio", pa.float16(), 0.5, 0.5),
        ("accuracy_ratio", pa.null(), None, None),
        ("ground_truth", pa.int64(), 12345678901, "12345678901"),
        ("ground_truth", pa.decimal128(4, 2), Decimal("4.50"), "4.50"),
        ("answer", pa.dictionary(pa.int32(), pa.large_string()), "four", "four"),
        ("verifier_parm", pa.null(), None, None),
    ],
)
def test_a_field_is_cast_where_nothing_is_lost(
    tmp_path: Path, field: str, kind: pa.DataType, value: Any, expected: Any
) -> None:
    columns = column("reward_model", *reward(**{field: (kind, value)}))
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (row,) = rows_of(open_file(Place(str(tmp_path / "a.parquet"))))
    assert cast_row(row)["reward_model"][field] == expected


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.decimal128(9, 0)], ids=str)
def test_an_id_may_be_a_number(tmp_path: Path, kind: pa.DataType) -> None:
    value = "17" if kind == pa.string() else 17
    pq.write_table(pa.table(column("extra_info", pa.struct([("id", kind)]), {"id": value})), tmp_path / "a.parquet")
    file = open_file(Place(str(tmp_path / "a.parquet")))
    (row,) = rows_of(file)
    assert read_row(row, "x", beside(file.place, ANYWHERE)).identity.sample_id == "17"


STRUCT = pa.struct([("bytes", pa.large_binary()), ("path", pa.null())])
ONE = {"bytes": png(), "path": None}


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("images", pa.list_(pa.binary()), [png()]),
        ("images", pa.large_list(pa.binary_view()), [png()]),
        ("images", pa.list_(STRUCT, 1), [ONE]),
        ("images", STRUCT, ONE),
        ("images", pa.binary(), png()),
        ("images", pa.string(), "a.png"),
        ("images", pa.list_(pa.string()), ["a.png"]),
        ("images", pa.list_(pa.struct([("path", pa.string())])), [{"path": "a.png"}]),
        ("image", STRUCT, ONE),
        ("image", pa.binary(), png()),
    ],
    ids=lambda value: str(value) if isinstance(value, pa.DataType) else "",
)
def test_one_image_or_a_list_of_bytes_or_paths_is_read(
    tmp_path: Path, name: str, kind: pa.DataType, value: Any
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    columns = column("ability", pa.string(), None)
    del columns["images"]
    pq.write_table(pa.table(columns | {name: pa.array([value], kind)}), tmp_path / "a.parquet")
    file = open_file(Place(str(tmp_path / "a.parquet")))
    (row,) = rows_of(file)
    (image,) = read_row(row, "x", beside(file.place, ANYWHERE)).images
    assert (image.data, image.width) == (png(), 28)


@pytest.mark.parametrize("kind", [None, pa.null(), pa.list_(pa.null()), pa.list_(STRUCT)], ids=str)
def test_a_file_of_text_alone_is_read_whatever_stands_for_its_images(tmp_path: Path, kind: pa.DataType | None) -> None:
    columns = column("prompt", SCHEMA.field("prompt").type, [{"content": "How many?", "role": "user"}])
    del columns["images"]
    if kind is not None:
        columns["images"] = pa.array([None if pa.types.is_null(kind) else []], kind)
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    file = open_file(Place(str(tmp_path / "a.parquet")))
    (row,) = rows_of(file)
    assert read_row(row, "x", beside(file.place, ANYWHERE)).images == ()


@pytest.mark.parametrize(
    ("name", "kind", "value", "reason"),
    [
        ("images", pa.int64(), 7, "column images is int64; expected list<struct<bytes: binary, path: string>>"),
        ("images", pa.list_(pa.struct([("bytes", pa.int8())])), [{"bytes": 1}], "column images is list<struct"),
        ("data_source", pa.float64(), 1.5, "column data_source is double; expected string"),
        ("data_source", pa.null(), None, "column data_source is null; expected string"),
        ("ability", pa.bool_(), True, "column ability is bool; expected string"),
        ("extra_info", pa.string(), "{}", "column extra_info is string; expected struct"),
    ],
)  # fmt: skip
def test_a_column_that_would_lose_something_is_named(
    tmp_path: Path, name: str, kind: pa.DataType, value: Any, reason: str
) -> None:
    pq.write_table(pa.table(column(name, kind, value)), tmp_path / "a.parquet")
    with pytest.raises(BadData, match=reason):
        open_file(Place(str(tmp_path / "a.parquet")))


def test_a_fingerprint_changes_with_the_rows(tmp_path: Path) -> None:
    first = open_file(Place(str(as_parquet(tmp_path, [math_row(i) for i in range(6)])))).fingerprint()
    assert open_file(Place(str(tmp_path / "a.parquet"))).fingerprint() == first
    assert open_file(Place(str(as_parquet(tmp_path, [math_row(i) for i in range(3)])))).fingerprint() != first
