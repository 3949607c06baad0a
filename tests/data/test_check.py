"""Files and rows checked: one line for each that is bad, never a traceback."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from services.data.checking.duplicates import Seen, find_duplicates
from services.data.checking.rows import Depth, check_file
from services.data.checking.run import Checked, check_files, plan
from services.data.reading.sources import Segment, index_sources
from shared.samples.files import Problem, inspect_files, open_file, open_files, read_group
from shared.samples.places import Place
from tests.data.rows import boxes_row, broken_row, math_row, png, write


def problems_of(*paths: Path, depth: Depth = Depth()) -> list[Problem]:  # noqa: B008
    """All that is wrong, files first, then rows in order."""
    files, problems = inspect_files(list(map(str, paths)))
    return problems + [problem for file in files for problem in check_file(file, depth)]


def test_bad_rows_are_named_by_their_place_in_the_file_over_row_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [broken_row(i) if i in (1, 6) else math_row(i) for i in range(8)], group=3)
    problems = problems_of(path)
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
    problems = problems_of(tmp_path, tmp_path / "missing.parquet")
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
    (problem,) = problems_of(path := write(tmp_path / "a.parquet", [row]))
    assert not problems_of(path, depth=Depth(decode=False))  # headers alone
    assert "cannot be decoded" in problem.reason


def test_a_row_group_that_is_torn_is_one_problem_and_the_others_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [math_row(i) for i in range(9)], group=3)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset)
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    (problem,) = check_file(open_file(Place(str(path))))
    assert problem.row is None and "row group 1 cannot be read" in problem.reason and "(3 rows lost)" in problem.reason


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


def test_processes_report_what_one_process_does(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [broken_row(i) if i % 5 == 1 else math_row(i) for i in range(23)], group=4)
    write(tmp_path / "b.parquet", [boxes_row(i) for i in range(5)])
    files = open_files([str(tmp_path)])
    tasks = plan(files)
    alone, together = (list(check_files(files, tasks, Depth(), workers=count)) for count in (1, 2))
    assert alone == together
    assert sum(report.looked_at for _, report in together) == 28


def test_a_sample_is_drawn_from_all_rows_and_reads_only_their_groups(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [math_row(i) for i in range(40)], group=4)
    write(tmp_path / "b.parquet", [math_row(i) for i in range(40, 60)], group=4)
    files = open_files([str(tmp_path)])
    tasks = plan(files, sample=3, seed=1)
    assert sum(len(task.only or ()) for task in tasks) == 3 and len(tasks) <= 3
    assert tasks == plan(files, sample=3, seed=1) != plan(files, sample=3, seed=2)
    assert sum(report.looked_at for _, report in check_files(files, tasks, Depth(), workers=1)) == 3
    assert plan(files, sample=60) == plan(files)
    drawn = {(task.file, task.group) for seed in range(40) for task in plan(files, sample=3, seed=seed)}
    assert drawn == {(0, group) for group in range(10)} | {(1, group) for group in range(5)}


def photo(shift: int, quality: int | None = None, scale: int = 1) -> bytes:
    """A smooth pattern that `shift` moves: unlike in shape from another one, alike when compressed or scaled."""
    y, x = np.mgrid[0:96, 0:128]
    grey = 127 + 60 * np.sin((x + 37 * shift) / 11.0) + 60 * np.cos((y * (shift + 1) + x) / 17.0)
    image = Image.fromarray(grey.clip(0, 255).astype(np.uint8)).resize((128 * scale, 96 * scale))
    buffer = io.BytesIO()
    image.save(buffer, "PNG") if quality is None else image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_the_same_bytes_and_what_looks_alike_are_found(tmp_path: Path) -> None:
    pictures = [photo(0), photo(1), photo(0, quality=60), photo(2), photo(1), photo(0, scale=3), photo(3)]
    rows = [math_row(i) | {"images": [{"bytes": data, "path": ""}]} for i, data in enumerate(pictures)]
    write(tmp_path / "a.parquet", rows[:4])
    write(tmp_path / "b.parquet", rows[4:])
    files = open_files([str(tmp_path)])
    checked = Checked()
    for task, report in check_files(files, plan(files), Depth(), workers=1):
        checked.add(task.file, report)
    found = checked.duplicates()
    assert [[(seen.file, seen.row) for seen in members] for members in found.exact] == [[(0, 1), (1, 0)]]
    assert [[(seen.file, seen.row) for seen in members] for members in found.near] == [[(0, 0), (0, 2), (1, 1)]]


def test_hashes_within_two_bits_are_linked_and_others_are_not() -> None:
    base = 0x0123456789ABCDEF
    hashes = [base, base ^ 1 ^ (1 << 63), base ^ 0b111, base ^ (1 << 30) ^ (1 << 31), 0xF0F0F0F0F0F0F0F0]
    seen = [Seen(0, row, bytes([row]), value) for row, value in enumerate(hashes)]
    near = find_duplicates(seen).near  # base ^ 0b111 is three bits from base, and from the others more
    assert [[image.row for image in members] for members in near] == [[0, 1, 3]]
