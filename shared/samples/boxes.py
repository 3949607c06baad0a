"""Reading boxes out of an answer, as V-Triune's detection rows write them.

`<answer>[{'bbox_2d': [x1, y1, x2, y2], 'label': 'cat'}, …]</answer>`: predictions and ground truths share this form.
The rules are those of V-Triune's detection verifier (its reward server at commit 39bcf0d), stated here anew.
"""

import json
import re
from typing import NamedTuple

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Box(NamedTuple):
    """A labelled rectangle: `corners` (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, in whatever unit the text used."""

    corners: tuple[float, float, float, float]
    label: str


def answer_block(text: str) -> str:
    """What the first `<answer>…</answer>` of `text` holds, stripped, lower-case; empty when there is none."""
    if "</answer>" not in text:
        return ""
    found = _ANSWER.search(text)
    return found.group(1).strip().lower() if found else ""


def parse_boxes(text: str) -> list[Box] | None:
    """The boxes of the first answer block of `text`, in order, or None when it holds no readable box.

    Single quotes pass for double ones, a list that was cut off keeps its complete items, an item that is not a box is
    left out, and of boxes at the same place the first one stays. Coordinates are taken as they are: never clipped,
    booleans count as numbers, infinite ones are kept.
    """
    return parse_box_list(answer_block(text))


def parse_box_list(body: str) -> list[Box] | None:
    """`parse_boxes` for text that is already the stripped, lower-case content of an answer block."""
    items = _load(body)
    if items is None:
        return None
    boxes: dict[tuple[float, ...], Box] = {}
    for item in items:
        box = _box(item)
        if box is not None:
            boxes.setdefault(box.corners, box)
    return list(boxes.values()) or None


def _load(body: str) -> list[object] | None:
    """The list that `body` spells, closed where it was cut off; None when it is no list."""
    if not body:
        return None
    text = body.replace("[[", "[").replace("]]", "]")
    if not text.endswith("]"):
        last = text.rfind("},")
        text = (text[:last] if last >= 0 else text) + "}]"
    try:
        items = json.loads(text.replace("'", '"').replace("\\", ""))
    except (ValueError, RecursionError):  # no JSON, an integer past Python's digit limit, or nested too deep
        return None
    return items if isinstance(items, list) else None


def _box(item: object) -> Box | None:
    if not isinstance(item, dict):
        return None
    corners, label = item.get("bbox_2d"), item.get("label")
    if not isinstance(label, str) or not isinstance(corners, list) or len(corners) != 4:
        return None
    if not all(isinstance(value, (int, float)) for value in corners):
        return None
    x1, y1, x2, y2 = corners
    return Box((x1, y1, x2, y2), label) if x1 <= x2 and y1 <= y2 else None
