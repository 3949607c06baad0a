"""Polygons, rotated boxes and points out of answers, as shapely's shapes."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from shapely import Polygon, affinity, make_valid
from shapely.errors import GEOSException
from shapely.geometry import Point, box
from shapely.geometry.base import BaseGeometry

from shared.answers.blocks import answer_body, answer_or_rest
from shared.answers.boxes import LONGEST
from shared.answers.literal import Value, find_literals
from shared.answers.plain import unfenced

_MOST_CORNERS = 1000
_LONGEST_PROSE = 512
_NUMBER = re.compile(r"(?<![\w.-])-?\d{1,6}(?:\.\d{1,9})?(?![\w.]\d)")
Shape = TypeVar("Shape")
_LARGEST = 1e9


def read_shape(text: str, reader: Callable[[Value], Shape | None]) -> Shape | None:
    """What `reader` makes of the last list or object in the answer of `text` that it can read, else of all of them."""
    body = answer_or_rest(text)
    if body is None or len(body) > LONGEST:
        return None
    found = find_literals(unfenced(body))[-_MOST_CORNERS:]
    shapes = (reader(value) for value in (*reversed(found), found))
    return next((shape for shape in shapes if shape is not None), None)


def read_point(text: str) -> Point | None:
    """The `point` in the answer of `text`; else its two numbers, where it has no more: `click(x=150, y=250)`."""
    found = read_shape(text, point)
    body = answer_or_rest(text)
    if found is not None or body is None or len(body) > _LONGEST_PROSE:
        return found
    numbers = _NUMBER.findall(body)
    return Point(*map(float, numbers)) if len(numbers) == 2 else None


def truth_shape(ground_truth: str, reader: Callable[[Value], Shape | None]) -> Shape | None:
    """The same for a ground truth, tagged or bare."""
    tagged = ground_truth if answer_body(ground_truth) is not None else f"<answer>{ground_truth}</answer>"
    return read_shape(tagged, reader)


def inside(value: Value, *names: str) -> Value:
    """What an object, or the only one in it or in a list, holds under one of `names`; else `value` itself."""
    if isinstance(value, dict):
        folded = {name.lower(): item for name, item in value.items()}
        nested = [item for item in value.values() if isinstance(item, dict)]
        if len(nested) == 1 and not folded.keys() & set(names):  # {"name": "click", "arguments": {…}}
            return inside(nested[0], *names)
        return next((folded[name] for name in names if name in folded), value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return inside(value[0], *names)
    return value


def polygon(value: Value) -> BaseGeometry | None:
    """The polygon with corners `[[x, y], …]` or `[x1, y1, x2, y2, x3, y3, …]`, at least three; None for anything else.

    One that crosses itself is made valid by shapely.
    """
    value = inside(value, "polygon", "segmentation", "points", "mask")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    numbers = flat_numbers(value)
    if numbers is None or len(numbers) < 6 or len(numbers) % 2 or len(numbers) > 2 * _MOST_CORNERS:
        return None
    return _valid(Polygon(list(zip(numbers[::2], numbers[1::2], strict=True))))


def rotated_box(value: Value) -> BaseGeometry | None:
    """The box `[cx, cy, width, height, angle]`, the angle in degrees; None for anything else."""
    value = inside(value, "bbox", "box", "rbox", "obb", "bbox_2d")
    numbers = flat_numbers(value)
    if numbers is None or len(numbers) != 5 or numbers[2] < 0 or numbers[3] < 0:
        return None
    cx, cy, width, height, angle = numbers
    upright = box(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    return _valid(affinity.rotate(upright, angle, origin=(cx, cy)))


def region(value: Value) -> BaseGeometry | None:
    """A box `[x1, y1, x2, y2]` or a polygon."""
    numbers = flat_numbers(inside(value, "bbox_2d", "bbox", "box"))
    if numbers is not None and len(numbers) == 4:
        x1, y1, x2, y2 = numbers
        return box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
    return polygon(value)


def point(value: Value) -> Point | None:
    """The point `[x, y]`; of a box or polygon a point inside it (its centre, where that is inside)."""
    found = inside(value, "point", "point_2d", "coordinate", "coordinates", "click")
    if isinstance(found, dict) and {"x", "y"} <= found.keys():
        found = [found["x"], found["y"]]
    numbers = flat_numbers(found)
    if numbers is not None and len(numbers) == 2:
        return Point(numbers)
    area = region(value)
    if area is None:
        return None
    return area.centroid if area.contains(area.centroid) else area.representative_point()


def overlap(one: BaseGeometry, other: BaseGeometry) -> float:
    """Intersection over union in [0, 1]."""
    try:
        union = one.union(other).area
        return min(1.0, one.intersection(other).area / union) if union > 0 else 0.0
    except GEOSException:
        return 0.0


def flat_numbers(value: Value) -> list[float] | None:
    """The numbers of a list, or of a list of lists; None where anything else is in it."""
    if not isinstance(value, list) or len(value) > 2 * _MOST_CORNERS:
        return None
    items: list[Any] = []
    for item in value:
        items += item if isinstance(item, list) else [item]
    return [float(item) for item in items] if all(_is_number(item) for item in items) else None


def _is_number(item: object) -> bool:
    return (
        isinstance(item, (int, float))
        and not isinstance(item, bool)
        and (not isinstance(item, float) or math.isfinite(item))
        and abs(item) <= _LARGEST
    )


def _valid(shape: BaseGeometry) -> BaseGeometry | None:
    try:
        shape = shape if shape.is_valid else make_valid(shape)
    except GEOSException:
        return None
    return shape if shape.area > 0 else None


def thresholded(value: float, params: Mapping[str, Any]) -> float:
    """`value` where it reaches the sample's `threshold` (default 0), else 0."""
    threshold = params.get("threshold", 0.0)
    return value if value >= float(threshold) else 0.0
