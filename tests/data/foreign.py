"""A small data set in every form that `triune data convert` reads, two rows each."""

import base64
import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from shared.samples.schema import SCHEMA
from tests.data.rows import boxes_row

ROWS = 2
SIDE = 84


def image(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (60 * number, 90, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def _images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(ROWS):
        (folder / f"{number}.png").write_bytes(image(number))


def coco(folder: Path) -> Path:
    _images(folder / "val")
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in range(ROWS)],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 30, 30]} for n in range(ROWS)],
    }
    path = folder / "annotations/instances_val.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    return path


def voc(folder: Path) -> Path:
    _images(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    for number in range(ROWS):
        (folder / f"Annotations/{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename><size><width>{SIDE}</width><height>{SIDE}</height></size>"
            "<object><name>dog</name><bndbox><xmin>5</xmin><ymin>11</ymin><xmax>50</xmax><ymax>60</ymax></bndbox>"
            "</object></annotation>"
        )
    return folder


def yolo(folder: Path) -> Path:
    _images(folder / "images")
    (folder / "labels").mkdir()
    for number in range(ROWS):
        (folder / f"labels/{number}.txt").write_text("1 0.5 0.5 0.5 0.2\n")
    (folder / "data.yaml").write_text("names: {0: cat, 1: dog}\n")
    return folder


def lines(folder: Path) -> Path:
    """Questions, one of them as LLaVA writes it."""
    _images(folder / "img")
    rows: list[dict[str, Any]] = [
        {"image": f"img/{n}.png", "question": "How many?", "answer": n} for n in range(ROWS - 1)
    ]
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a square"}]
    rows.append({"image": "img/1.png", "conversations": turns})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


def easy_r1(folder: Path) -> Path:
    rows = [
        {"images": [{"bytes": image(n), "path": None}], "problem": "<image>Area?", "answer": "9"} for n in range(ROWS)
    ]
    return _parquet(rows, folder)


def verl(folder: Path) -> Path:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>Area?"}]
    rows = [
        {
            "data_source": "verl",
            "prompt": turns,
            "images": [{"bytes": image(n)}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "9"},
            "extra_info": {"index": n, "split": "train"},
        }
        for n in range(ROWS)
    ]
    return _parquet(rows, folder)


def saved(folder: Path) -> Path:
    """As `datasets.Dataset.save_to_disk` writes it."""
    rows = [{"image": {"bytes": image(n), "path": "x.png"}, "query": "How many?", "label": "3"} for n in range(ROWS)]
    table = pa.Table.from_pylist(rows)
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text("{}")
    return folder


def vlmevalkit(folder: Path) -> Path:
    folder.mkdir(parents=True)
    with (folder / "bench.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(("index", "image", "question", "A", "B", "answer"))
        for number in range(ROWS):
            table.writerow((number, base64.b64encode(image(number)).decode(), "Which?", "cat", "dog", "B"))
    return folder / "bench.tsv"


def orsta(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [boxes_row(n, "orsta") | {"images": [{"bytes": image(n), "path": "a.png"}]} for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "rows.parquet")
    return folder / "rows.parquet"


def _parquet(rows: list[dict[str, Any]], folder: Path) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


FORMS: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {form.__name__: form for form in (coco, voc, yolo, lines, easy_r1, verl, saved, vlmevalkit, orsta)}
)
"""Form → writes it into a folder and returns what `data convert` is given."""
