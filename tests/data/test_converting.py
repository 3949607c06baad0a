"""Other data sets become rows that a job reads: boxes where the annotation has them, questions with their truth."""

import base64
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO

from services.data.converting import writer
from services.data.converting.kinds import CONVERTERS, told_kind
from services.data.converting.options import Options
from services.data.converting.preview import write_preview
from services.data.converting.reasons import LeftOut
from services.data.converting.rows import Draft, Labelled, relative
from services.data.converting.rows import boxes_row as row_of_boxes
from services.data.converting.writer import STATE, write
from shared.errors import BadData, BadSample, UserError
from shared.samples.boxes import parse_boxes
from shared.samples.files import open_files, read_group
from shared.samples.schema import SCHEMA
from tests.data.converted import converted, picture
from tests.data.rows import boxes_row, math_row, png


def truth(row: dict[str, Any]) -> list[tuple[tuple[float, ...], str]]:
    return [(box.corners, box.label) for box in parse_boxes(row["reward_model"]["ground_truth"]) or []]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for number in range(3):
        picture(tmp_path / f"val/{number}.jpg")
    document = {
        "images": [{"id": 7 + n, "file_name": f"{n}.jpg", "width": 200, "height": 100} for n in range(3)],
        "categories": [{"id": 1, "name": "Cat"}, {"id": 18, "name": "man's hat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [20, 10, 100.5, 50], "iscrowd": 0, "area": 5025},
            {"id": 2, "image_id": 7, "category_id": 18, "bbox": [0, 0, 200, 100], "iscrowd": 0, "area": 20000},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [5, 5, 50, 50], "iscrowd": 1, "area": 2500},
            {"id": 4, "image_id": 8, "category_id": 1, "bbox": [199, 99, 1, 1], "iscrowd": 0, "area": 1},
        ],
    }
    path = tmp_path / "annotations/instances_val.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    return path


def test_a_converted_coco_file_equals_the_reading_of_pycocotools(coco: Path, tmp_path: Path) -> None:
    rows = converted(coco, tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(coco))
    assert [row["extra_info"]["id"] for row in rows] == ["mine/7", "mine/8"]
    for row in rows:
        image = known.loadImgs(int(row["extra_info"]["id"].removeprefix("mine/")))[0]
        expected = []
        for annotation in known.loadAnns(known.getAnnIds(imgIds=image["id"], iscrowd=False)):
            x, y, w, h = annotation["bbox"]
            name = known.loadCats(annotation["category_id"])[0]["name"].replace("'", "’").lower()
            corners = relative((x, y, x + w, y + h), image["width"], image["height"])
            expected.append((tuple(corners), name))
        assert truth(row) == expected
    assert truth(rows[0])[0] == ((100, 100, 602, 600), "cat")  # 20/200, 10/100, 120.5/200, 60/100 in thousandths
    assert "- Cat\n- man’s hat\n" in rows[0]["prompt"][0]["content"]


def test_an_image_without_boxes_or_of_another_size_is_left_out_and_counted(coco: Path, tmp_path: Path) -> None:
    picture(tmp_path / "val/1.jpg", (100, 200))
    done = write(
        CONVERTERS["coco"](coco, Options("mine")), tmp_path / "out", origin="", name="m", advance=lambda _: None
    )
    assert (done.drafts, done.rows) == (3, 1)
    size = "the image is not of the size that its annotation says (first: 100x200 pixels, annotated as 200x100)"
    assert done.left_out.told() == {"no boxes": 1, size: 1}


def test_reasons_are_counted_together_whatever_they_are_said_of(tmp_path: Path) -> None:
    rows = [{"image": f"nope/{n}.png", "question": f"{n}?", "answer": "1"} for n in range(4)]
    lines = [*rows, {"image": 7, "question": "1?", "answer": "1"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    drafts = CONVERTERS["table"](tmp_path / "a.jsonl", Options("mine"))
    done = write(drafts, tmp_path / "out", origin="", name="m", advance=lambda _: None)
    assert done.left_out.told() == {
        f"image not found (first: {tmp_path}/nope/0.png)": 4,
        "an image that is int; expected bytes, a path, or a struct of both": 1,
    }


@pytest.mark.parametrize("corners", [(100.0, 250.0, 150.0, 300.0), (10.0, 20.0, 10.1, 90.0)])
def test_a_box_that_is_empty_in_the_image_leaves_its_row_out(tmp_path: Path, corners: tuple[float, ...]) -> None:
    picture(tmp_path / "1.jpg", (200, 100))
    boxes = [Labelled((0.0, 0.0, 50.0, 50.0), "cat"), Labelled(corners, "cat")]  # type: ignore[arg-type]
    with pytest.raises(BadSample, match="outside of the image, or thinner"):
        row_of_boxes(source="mine", key="1", image=(tmp_path / "1.jpg").read_bytes(), path="1.jpg", boxes=boxes)


def test_pascal_voc_counts_pixels_from_one(tmp_path: Path) -> None:
    picture(tmp_path / "VOC/JPEGImages/a.jpg")
    annotation = tmp_path / "VOC/Annotations/a.xml"
    annotation.parent.mkdir()
    annotation.write_text(
        "<annotation><filename>a.jpg</filename><size><width>200</width><height>100</height></size>"
        "<object><name>dog</name><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>200</xmax><ymax>60</ymax></bndbox></object>"
        "</annotation>"
    )
    (row,) = converted(tmp_path / "VOC", tmp_path / "out")
    assert truth(row) == [((0, 100, 1000, 600), "dog")]
    assert row["reward_model"]["verifier_parm"]["det_verifier_normalized"] is True


def test_yolo_boxes_are_shares_around_a_centre_and_polygons_their_boxes(tmp_path: Path) -> None:
    picture(tmp_path / "y/images/train/a.png")
    picture(tmp_path / "y/images/train/b.png")
    label = tmp_path / "y/labels/train/a.txt"
    label.parent.mkdir(parents=True)
    label.write_text("1 0.5 0.5 0.5 0.2\n0 0.1 0.2 0.4 0.2 0.4 0.9\n")
    (tmp_path / "y/data.yaml").write_text("path: .\nnames: {0: cat, 1: dog}\n")
    (row,) = converted(tmp_path / "y", tmp_path / "out")
    assert truth(row) == [((250, 400, 750, 600), "dog"), ((100, 200, 400, 900), "cat")]
    assert row["extra_info"]["id"] == "mine/train/a"


def test_rows_in_the_schema_are_written_in_smaller_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GROUP_BYTES", 5000)
    rows = [math_row(i) if i % 2 else boxes_row(i) for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "one.parquet")
    assert told_kind(tmp_path / "one.parquet") == "orsta"
    again = converted(tmp_path / "one.parquet", tmp_path / "out")
    assert again == pa.Table.from_pylist(rows, SCHEMA).to_pylist()
    (file,) = open_files([str(tmp_path / "out")])
    assert max(file.groups) <= 5 and sum(file.groups) == 20


def test_a_conversion_that_was_killed_goes_on_and_nothing_is_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FILE_ROWS", 3)
    made: list[int] = []

    def make(number: int) -> Callable[[], dict[str, Any]]:
        def row() -> dict[str, Any]:
            made.append(number)
            if number == 7 and len(made) == 8:
                raise KeyboardInterrupt
            if number == 4:
                raise LeftOut("no boxes", "4")
            return math_row(number)

        return row

    def drafts() -> Iterator[Draft]:
        return (Draft(str(number), make(number)) for number in range(10))

    def run() -> writer.Progress:
        return write(drafts(), tmp_path, origin="o", name="a", advance=lambda _: None)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert json.loads((tmp_path / STATE).read_text())["drafts"] == 6
    done = run()
    assert made == [*range(8), 6, 7, 8, 9]
    assert (done.rows, done.left_out.told()) == (9, {"no boxes (first: 4)": 1})
    ids = [row["extra_info"]["id"] for file in open_files([str(tmp_path)]) for row in read_group(file, 0)]
    assert ids == [f"numbers/{number}" for number in range(10) if number != 4]
    assert run().rows == 9 and len(made) == 12
    with pytest.raises(UserError, match="holds a conversion of o"):
        write(drafts(), tmp_path, origin="other", name="a", advance=lambda _: None)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "{}", "no COCO annotations"),
        ("a.json", "[1", "cannot be read as JSON"),
        ("a.jsonl", "{", "cannot be read"),
        ("none", None, "no such file or folder"),
    ],
)
def test_what_is_no_data_set_is_one_sentence(tmp_path: Path, name: str, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(BadData, match=reason):
        kind = told_kind(tmp_path / name)
        list(CONVERTERS[kind](tmp_path / name, Options("mine")))


def test_a_preview_shows_boxes_and_runs_nothing(tmp_path: Path) -> None:
    row = boxes_row(1)
    row["prompt"][0]["content"] = "<image><script>alert(1)</script>"
    row["images"] = [{"bytes": png(280, 280), "path": ""}]
    pq.write_table(pa.Table.from_pylist([row, math_row(2)], SCHEMA), tmp_path / "a.parquet")
    write_preview(tmp_path, tmp_path / "preview.html", rows=5)
    page = (tmp_path / "preview.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "2 of 2 rows" in page
    first = page.split('src="data:image/jpeg;base64,')[1].split('"')[0]
    drawn = Image.open(io.BytesIO(base64.b64decode(first)))
    # [10, 20, 300, 400] in 280 pixels: the right side stands at x = 84, from y = 5.6 to 112, red; the image is black
    assert drawn.getpixel((84, 60))[0] > 120 and drawn.getpixel((84, 200))[0] < 60
