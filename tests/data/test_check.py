"""Files and rows checked: one line for each that is bad, never a traceback."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.data.check import check_file, check_paths
from services.data.reading.sources import Segment, index_sources
from shared.samples.files import open_file, open_files, read_group
from shared.samples.places import Place
from tests.data.rows import boxes_row, broken_row, math_row, png, write


def test_bad_rows_are_named_by_their_place_in_the_file_over_row_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [broken_row(i) if i in (1, 6) else math_row(i) for i in range(8)], group=3)
    problems = list(check_paths([str(path)]))
    assert [(problem.row, problem.reason) for problem in problems] == [
        (1, "image 0: the image has no bytes"),
        (6, "image 0: the image has no bytes"),
    ]
    assert str(problems[0]) == f"{path}: row 1: image 0: the image has no bytes"


def test_every_bad_file_of_a_folder_is_one_problem(tmp_path: Path) -> None:
    write(tmp_path / "good.parquet", [math_row(), boxes_row()])
    whole = write(tmp_path / "cut.parquet", [math_row(i) for i in range(20)]).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) * 6 // 10])
    (tmp_path / "text.parquet").write_text("a,b\n")
    write(tmp_path / "none.parquet", [])
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "other.parquet")
    problems = list(check_paths([str(tmp_path), str(tmp_path / "missing.parquet")]))
    assert sorted(Path(problem.file).name for problem in problems) == [
        "cut.parquet",
        "missing.parquet",
        "none.parquet",
        "other.parquet",
        "text.parquet",
    ]
    assert all(problem.row is None and "\n" not in problem.reason for problem in problems)


def test_an_image_that_breaks_off_is_found_by_decoding(tmp_path: Path) -> None:
    row = math_row()
    row["images"] = [{"bytes": png(60, 60)[:-30], "path": "a.png"}]
    (problem,) = check_paths([str(write(tmp_path / "a.parquet", [row]))])
    assert "cannot be decoded" in problem.reason


def test_a_row_group_that_is_torn_is_one_problem_and_the_others_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [math_row(i) for i in range(9)], group=3)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset)
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    advanced: list[int] = []
    (problem,) = check_file(open_file(Place(str(path))), advance=advanced.append)
    assert problem.row is None and "row group 1 cannot be read" in problem.reason and "(3 rows lost)" in problem.reason
    assert sum(advanced) == 6


def test_sources_are_indexed_by_row_group_also_when_a_file_mixes_them(tmp_path: Path) -> None:
    rows = [math_row(i, "a" if i % 3 else "b") for i in range(6)] + [math_row(6, "b"), math_row(7, "b")]
    write(tmp_path / "m.parquet", rows, group=6)
    (file,) = open_files([str(tmp_path)])
    assert index_sources([file]) == {
        "a": [Segment(file, 0, [1, 2, 4, 5])],
        "b": [Segment(file, 0, [0, 3]), Segment(file, 1, range(2))],
    }
    assert [row["extra_info"]["id"] for row in read_group(file, 1)] == ["b/6", "b/7"]


def test_a_copied_file_is_read_like_the_original(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [math_row(i) for i in range(5)])
    shutil.copy(path, tmp_path / "b.parquet")
    assert sum(file.rows for file in open_files([str(tmp_path / "*.parquet")])) == 10
