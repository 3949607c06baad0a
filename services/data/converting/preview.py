"""A page of converted rows to look at: images with their boxes drawn, questions and truths as the model gets them.

One HTML file that loads nothing: images are inside, all text is escaped.
"""

import base64
import html
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from shared.errors import BadSample
from shared.samples.boxes import parse_boxes
from shared.samples.files import open_files, read_group
from shared.samples.images import decode_image
from shared.samples.schema import cast_row

SIDE = 480
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}}
article{{display:grid;grid-template-columns:minmax(0,{side}px) 1fr;gap:1.2rem;border-top:1px solid #ccc;
padding:1.2rem 0}}img{{max-width:100%;border:1px solid #ddd}}pre{{white-space:pre-wrap;overflow-wrap:anywhere;
background:#f5f5f5;padding:.6rem;margin:.3rem 0}}small{{color:#666;display:block}}
@media(max-width:700px){{article{{grid-template-columns:1fr}}}}</style>
<h1>{title}</h1><p>{intro}</p>{body}</html>
"""


def page(title: str, intro: str, body: Sequence[str]) -> str:
    """A whole page; `body` is HTML already."""
    return _PAGE.format(title=_text(title), side=SIDE, intro=_text(intro), body="".join(body))


def write_preview(folder: Path, out: Path, *, rows: int, seed: int = 0) -> None:
    """`rows` random rows of the data files in `folder` as the page `out`; raises BadData when there are none."""
    files = open_files([str(folder)])
    places = [(file, group, row) for file in files for group, count in enumerate(file.groups) for row in range(count)]
    chosen = sorted(random.Random(seed).sample(range(len(places)), min(rows, len(places))))
    articles = []
    for file, group in dict.fromkeys((places[index][0], places[index][1]) for index in chosen):
        wanted = {places[index][2] for index in chosen if places[index][:2] == (file, group)}
        for number, row in enumerate(read_group(file, group)):
            if number in wanted:
                articles.append(article(cast_row(row)))
    intro = f"{len(articles)} of {len(places)} rows, drawn by chance. Boxes are the truth."
    out.write_text(page(f"Preview of {folder.name}", intro, articles))


def article(row: dict[str, Any], told: str = "") -> str:
    """One row of the schema as HTML; `told` is said of it."""
    model = row["reward_model"] or {}
    truth = model.get("ground_truth") or ""
    boxes = parse_boxes(truth) if model.get("verifier") in ("detection", "iou") else None
    pictures = "".join(_picture(image["bytes"], boxes or []) for image in row["images"])
    turns = "".join(
        f"<small>{_text(turn['role'])}</small><pre>{_text(turn['content'])}</pre>" for turn in row["prompt"]
    )
    name = (row["extra_info"] or {}).get("id")
    about = " · ".join(_text(part) for part in (name, row["data_source"], model.get("verifier"), told) if part)
    return (
        f"<article><div>{pictures}</div><div><small>{about}</small>{turns}"
        f"<small>truth</small><pre>{_text(truth)}</pre></div></article>"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _picture(data: bytes | None, boxes: Sequence[Any]) -> str:
    try:
        image = decode_image(data or b"", max_pixels=SIDE * SIDE)
    except BadSample as error:
        return f"<p>{_text(error)}</p>"
    draw_boxes(image, boxes)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def draw_boxes(image: Image.Image, boxes: Sequence[Any]) -> None:
    """Boxes in thousandths drawn onto `image`, one colour a label."""
    pen = ImageDraw.Draw(image)
    labels = list(dict.fromkeys(box.label for box in boxes))
    for box in boxes:
        x1, y1, x2, y2 = (value / 1000 * side for value, side in zip(box.corners, image.size * 2, strict=True))
        colour = _COLOURS[labels.index(box.label) % len(_COLOURS)]
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        pen.text((x1 + 3, y1 + 2), box.label, fill=colour)
