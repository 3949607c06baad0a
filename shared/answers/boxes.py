"""Labelled boxes out of an answer, in the forms that vision-language models write them in."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from shared.answers.blocks import answer_body, answer_or_rest
from shared.answers.literal import Unreadable, Value, find_literals
from shared.answers.plain import unfenced, unified
from shared.samples.boxes import Box

_PLACES = ("bbox_2d", "bbox", "box", "bounding_box", "boundingbox", "bboxes", "boxes", "coordinates", "position")
_LABELS = ("label", "name", "class", "category", "object", "description", "ref", "text", "sub_label")
_SIDES = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max"),
          ("left", "top", "right", "bottom"))  # fmt: skip
_NUMBER = r"\s{0,4}(-?\d{1,9}(?:\.\d{0,9})?)\s{0,4}"
# Qwen2-VL: <|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>
# InternVL: <ref>cat</ref><box>[[1,2,3,4]]</box>
# One label may stand before several boxes.
_SPECIAL = re.compile(
    r"(?:(?:<\|object_ref_start\|>|<ref>)([^<]{0,200})(?:<\|object_ref_end\|>|</ref>)\s{0,8})?"
    r"(?:<\|box_start\|>|<box>)([^<]{0,8192})(?:<\|box_end\|>|</box>)[\s,]{0,8}"
)
_FOUR = re.compile(rf"{_NUMBER},{_NUMBER}[)\]]?\s?,\s?[(\[]?{_NUMBER},{_NUMBER}")
# - **cat**: [1, 2, 3, 4]
_LINE = re.compile(
    rf"^[\s*•>-]{{0,8}}(?:\d{{1,3}}[.)]\s)?[*\"'`]{{0,3}}([^\W\d][^:\[\](){{}}\n*\"'`]{{0,80}})[*\"'`]{{0,3}}\s?[:：][*\s]{{0,4}}"
    rf"[\[(]{{1,2}}{_NUMBER},{_NUMBER}[)\]]?,\s?[(\[]?{_NUMBER},{_NUMBER}[\])]{{1,2}}[.,;]?[ \t]*$",
    re.MULTILINE,
)
_LONGEST_PROSE = 4096
# {'bbox_2d': [1, 2, 3, 4], 'label': 'cat'}, as prompts ask for it
_PLAIN_ITEM = re.compile(
    r"""\{(['"])bbox_2d\1: ?\[(\d{1,9}), ?(\d{1,9}), ?(\d{1,9}), ?(\d{1,9})\], ?(['"])label\6: ?"""
    r"""(['"])([A-Za-z0-9 _.-]{0,80})\7\}(, ?|\])""",
    re.ASCII,
)
_NUMBERS = re.compile(rf"[\[(\s]{{0,4}}{_NUMBER},{_NUMBER}[)\]]?,?\s?[(\[]?{_NUMBER},{_NUMBER}[\])\s]{{0,4}}")
LONGEST = 256 * 1024
"""Characters of an answer; a longer one holds no boxes."""
_EXPECTED = "a list of {'bbox_2d': [x1, y1, x2, y2], 'label': …} with x1 <= x2 and y1 <= y2, in <answer> tags"
_WRAPPED = re.compile(r"\\(?:boxed|fbox|text|mathrm)\s?\{")


def read_boxes(text: str) -> list[Box]:
    """The boxes of the last answer block of `text` (else of what follows its thought), in order; empty for none.

    Code fences, prose around the list, a bare object, a bare `[x1, y1, x2, y2]`, other names of the keys, quotes of any
    kind, apostrophes in labels, trailing commas, cut-off lists, numbers in quotes, the special tokens of Qwen-VL and
    InternVL, lines `cat: [1, 2, 3, 4]`, four numbers in prose. A label is lower-case, without white space around it, ""
    where there is none. An item that is no box is left out; of boxes at the same place the first one stays. Of several
    lists the last one counts.
    """
    body = answer_or_rest(text)
    if body is None or len(body) > LONGEST:
        return []
    return _unique(_last_list(body)[0])


def truth_boxes(ground_truth: str, *, labelled: bool) -> list[Box]:
    """The boxes of a ground truth, tagged or bare; raises ValueError when it holds none, or anything that is no box.

    With `labelled` each needs a label.
    """
    body = answer_body(ground_truth)
    try:
        boxes, others = _last_list(ground_truth if body is None else body, strict=True)
    except Unreadable as error:
        raise ValueError(f"is not a list of boxes ({error})") from None
    if not boxes and not others:
        raise ValueError(f"holds no list of boxes; expected {_EXPECTED}")
    if others:
        raise ValueError(f"has {len(boxes) + others} items, of which {len(boxes)} read as boxes; expected {_EXPECTED}")
    if labelled and not all(box.label for box in boxes):
        raise ValueError(f"has a box without a label; expected {_EXPECTED}")
    return _unique(boxes)


def _unique(boxes: Sequence[Box]) -> list[Box]:
    kept: dict[tuple[float, ...], Box] = {}
    for box in boxes:
        kept.setdefault(box.corners, box)
    return list(kept.values())


def _last_list(body: str, *, strict: bool = False) -> tuple[list[Box], int]:
    """The boxes of the last list in `body`, or of the single ones at its end; and how many items were no box.

    Raises Unreadable (`strict`).
    """
    plain = _plain_list(body.strip())
    if plain is not None:
        return plain
    body = unfenced(body)
    special = list(_special(body)) or _lines(body)
    if special:
        boxes = [box for box in special if box is not None]
        return boxes, len(special) - len(boxes)
    found: list[Box | None] = []
    single = False
    for value in find_literals(_WRAPPED.sub("", _straight(body)), strict=strict):
        boxes_of_it = list(_boxes(value))
        if not any(boxes_of_it):
            found += boxes_of_it if _has_place(value) else []
            continue
        alone = isinstance(value, dict) or _corners(value) is not None
        found = [*found, *boxes_of_it] if alone and single else boxes_of_it
        single = alone
    if not found and len(body) <= _LONGEST_PROSE:
        bare = list(_FOUR.finditer(body))  # 1, 2, 3, 4
        found = [_box(bare[0].groups(), "")] if len(bare) == 1 else []
    boxes = [box for box in found if box is not None]
    return boxes, len(found) - len(boxes)


def _plain_list(body: str) -> tuple[list[Box], int] | None:
    """The same of a body that is nothing but a list as prompts ask for it; None where it has to be read as a literal.

    Most answers are one, and this takes a fifth of the time.
    """
    found: list[Box | None] = []
    item = _PLAIN_ITEM.match(body, 1) if body.startswith("[") else None
    while item is not None:
        x1, y1, x2, y2 = map(int, item.group(2, 3, 4, 5))
        found.append(_ordered(x1, y1, x2, y2, item[8]))
        if item[9] == "]":
            boxes = [box for box in found if box is not None]
            return (boxes, len(found) - len(boxes)) if item.end() == len(body) else None
        item = _PLAIN_ITEM.match(body, item.end())
    return None


def _special(body: str) -> Iterator[Box | None]:
    label, end = "", 0
    for found in _SPECIAL.finditer(body):
        label = found[1] or (label if found.start() == end else "")
        end = found.end()
        inside = [_box(four.groups(), label) for four in _FOUR.finditer(found[2])]
        yield from inside or [None]


def _lines(body: str) -> list[Box | None]:
    """Boxes behind their labels, a line each; none in a body that is more than such a list."""
    if "{" in body or len(body) > _LONGEST_PROSE:
        return []
    return [_box(found.groups()[1:], found[1]) for found in _LINE.finditer(body)]


def _straight(body: str) -> str:
    return body if body.isascii() else unified(body)


def _has_place(value: Value) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, dict) and any(name.lower() in _PLACES for name in item) for item in items)


def _boxes(value: Value, label: str = "", depth: int = 0) -> Iterator[Box | None]:
    """The boxes in a literal; None for each item that is none."""
    corners = _corners(value)
    if corners is not None:
        yield _box(corners, label)
    elif isinstance(value, dict):
        yield from _boxes_of_object(value, depth)
    elif isinstance(value, list) and depth < 4 and value:
        for item in value:
            yield from _boxes(item, label, depth + 1)
    else:
        yield None


def _boxes_of_object(value: Mapping[str, Value], depth: int) -> Iterator[Box | None]:
    names = {name.strip().lower(): item for name, item in value.items()}
    label = next((item for name in _LABELS if isinstance(item := names.get(name), str)), "")
    for sides in _SIDES:
        if all(side in names for side in sides):
            yield _box([names[side] for side in sides], label)
            return
    place = next((name for name in _PLACES if name in names), None)
    if place is not None:
        yield from _boxes(names[place], label, depth + 1)
    elif depth < 4 and names:
        for name, item in names.items():  # {"objects": [...]}, {"cat": [1, 2, 3, 4]}
            if isinstance(item, (list, dict)):
                yield from _boxes(item, name if _corners_inside(item) else "", depth + 1)
            elif len(names) == 1:
                yield None
    else:
        yield None


def _corners_inside(item: Value) -> bool:
    return _corners(item) is not None or (isinstance(item, list) and bool(item) and _corners(item[0]) is not None)


def _corners(value: Value) -> Sequence[Value] | None:
    """The four numbers of a list or a text that is nothing but a box; None for anything else."""
    if isinstance(value, str):
        found = _NUMBERS.fullmatch(value) if len(value) <= 80 else None
        return None if found is None else found.groups()
    if not isinstance(value, list):
        return None
    if len(value) == 2 and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        value = [*value[0], *value[1]]  # type: ignore[misc]  # [[x1, y1], [x2, y2]]
    if len(value) == 4 and all(_as_number(item) is not None for item in value):
        return value
    return None


def _as_number(value: object) -> float | None:
    if isinstance(value, str) and len(value) <= 24:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def _box(corners: Sequence[object], label: str) -> Box | None:
    numbers = [_as_number(value) for value in corners]
    if len(numbers) != 4 or any(number is None for number in numbers):
        return None
    x1, y1, x2, y2 = (number for number in numbers if number is not None)
    return _ordered(x1, y1, x2, y2, label)


def _ordered(x1: float, y1: float, x2: float, y2: float, label: str) -> Box | None:
    return Box((x1, y1, x2, y2), " ".join(label.lower().split())) if x1 <= x2 and y1 <= y2 else None
