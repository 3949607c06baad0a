"""Key points of one object: COCO's object keypoint similarity.

Source: cocodataset/cocoapi, `COCOeval.computeOks`: OKS = mean over the labelled points (v > 0) of exp(−d² / (2 · area
· (2σ)²)), in [0, 1]. The ground truth is `{"keypoints": [[x, y, v], …], "area": a}`, the answer a list of as many
points (`[[x, y], …]`, or with a third number, which is ignored). σ is the parameter `sigmas` (a list), else COCO's for
17 points, else 0.05 for each. Format: four tags, a quarter each. An answer of another length has 0. Raises
VerifierError for a ground truth that is none, and for sigmas of another length.
"""

import math
from collections.abc import Mapping

from services.reward.answers.tags import tag_format
from services.reward.boxes.shapes import flat_numbers, inside, read_shape, truth_shape
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.literal import Value
from shared.messages import RewardSpec

_COCO = (
    0.026,
    0.025,
    0.025,
    0.035,
    0.035,
    0.079,
    0.079,
    0.072,
    0.072,
    0.062,
    0.062,
    0.107,
    0.107,
    0.087,
    0.087,
    0.089,
    0.089,
)
_SIGMA = 0.05
_MOST = 1000


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the last list of points of `completion`."""
    points, area = _truth(spec.ground_truth)
    sigmas = _sigmas(spec.params, len(points))
    answer = read_shape(completion, lambda value: _points(value, len(points)))
    if answer is None:
        return Verdict(0.0, tag_format(completion))
    found = [
        math.exp(-((x - tx) ** 2 + (y - ty) ** 2) / (2 * area * (2 * sigma) ** 2))
        for (x, y, _), (tx, ty, visible), sigma in zip(answer, points, sigmas, strict=True)
        if visible > 0
    ]
    return Verdict(sum(found) / len(found), tag_format(completion))


def _truth(ground_truth: str) -> tuple[list[tuple[float, float, float]], float]:
    found = truth_shape(ground_truth, _points_and_area)
    if found is None:
        raise VerifierError(
            f"ground truth {ground_truth[:200]!r} holds no points and area; "
            "expected {'keypoints': [[x, y, v], …], 'area': a}"
        )
    if not any(visible > 0 for _, _, visible in found[0]):
        raise VerifierError(f"ground truth {ground_truth[:200]!r} has no labelled point; expected v above 0 in one")
    return found


def _points_and_area(value: Value) -> tuple[list[tuple[float, float, float]], float] | None:
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    points = _points(value)
    area = value.get("area") if isinstance(value, dict) else None
    return (points, float(area)) if points and isinstance(area, (int, float)) and 0 < area < math.inf else None


def _points(value: Value, count: int | None = None) -> list[tuple[float, float, float]] | None:
    """(x, y, v) of each point, v being 2 where there is none; None where it is no list of `count` points."""
    value = inside(value, "keypoints", "points")
    if not isinstance(value, list) or not 0 < len(value) <= _MOST:
        return None
    if not any(isinstance(item, list) for item in value):  # COCO's own flat form
        value = [value[place : place + 3] for place in range(0, len(value), 3)]
    found: list[tuple[float, float, float]] = []
    for item in value:
        numbers = flat_numbers(item)
        if numbers is None or len(numbers) not in (2, 3):
            return None
        found.append((numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else 2.0))
    return found if count in (None, len(found)) else None


def _sigmas(params: Mapping[str, object], count: int) -> tuple[float, ...]:
    given = params.get("sigmas")
    if given is None:
        return _COCO if count == len(_COCO) else (_SIGMA,) * count
    numbers = flat_numbers(list(given)) if isinstance(given, (list, tuple)) else None
    if numbers is None or len(numbers) != count or min(numbers) <= 0:
        raise VerifierError(f"sigmas is {given!r}; expected {count} numbers above 0")
    return tuple(numbers)
