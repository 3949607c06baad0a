"""The maths of boxes: symmetry, permutation, duplication, monotony, and numbers worked by hand."""

import contextlib
import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from services.reward.boxes.geometry import iou, predicted_relative
from services.reward.boxes.matching import Matching
from services.reward.http.vtriune import to_sample
from services.reward.verdict import Context
from services.reward.verifiers import detection
from shared.messages import RewardSpec
from shared.samples.boxes import Box, parse_boxes
from tests.reward.cases import cases

SIDES = st.tuples(*[st.integers(0, 1000)] * 4).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)
BOXES = st.lists(st.builds(Box, SIDES, st.sampled_from(["cat", "dog"])), min_size=1, max_size=6)
DISJOINT = [Box((200 * i, 0, 200 * i + 100, 100), label) for i, label in enumerate(("cat", "dog", "cat", "bird"))]


def _text(boxes: list[Box]) -> str:
    return f"so\n<answer>\n{[{'bbox_2d': list(box.corners), 'label': box.label} for box in boxes]}\n</answer>"


def _score(predictions: list[Box], truths: list[Box], threshold: str | float = "average") -> float:
    spec = RewardSpec(
        verifier="detection",
        answer="",
        ground_truth=_text(truths),
        params={"det_reward_ratio": {"iou_max_label_first": 1.0, "iou_completeness": 0.3}},
        options={"iou_threshold": threshold},
    )
    return detection.score(_text(predictions), spec, Context()).accuracy


@given(SIDES, SIDES)
def test_iou_is_symmetric_and_in_the_unit_interval(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0.0 <= iou(a, b) <= 1.0


@given(SIDES)
def test_a_box_with_area_has_iou_one_with_itself_and_one_without_has_none(box: tuple[int, ...]) -> None:
    assert iou(box, box) == float(box[0] < box[2] and box[1] < box[3])


@pytest.mark.parametrize(
    "box", [(0, 0, 1e308, 1e308), (float("-inf"), 0, float("inf"), 1), (0, 0, 1e-170, 1e-170), (0, 0, 10**400, 1)]
)
def test_iou_of_absurd_boxes_is_in_the_unit_interval(box: tuple[float, ...]) -> None:
    for other in (box, (0, 0, 100, 100)):
        assert 0.0 <= iou(box, other) <= 1.0


def test_iou_worked_by_hand() -> None:
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0


@given(BOXES, BOXES)
def test_every_number_of_a_matching_is_in_the_unit_interval(predictions: list[Box], truths: list[Box]) -> None:
    matching = Matching(predictions, truths)
    for threshold, find in itertools.product((0.0, 0.5, 0.99), (matching.label_first, matching.iou_first)):
        match = find(threshold)
        values = (match.mean_iou, match.precision, match.recall, match.weighted(0.3))
        assert all(-1e-12 <= value <= 1.0 + 1e-12 for value in values)
    assert all(0.0 <= value <= 1.0 for value in matching.average_precisions())


@given(BOXES, BOXES)
def test_a_shared_result_for_thresholds_with_nothing_between_is_the_direct_one(
    predictions: list[Box], truths: list[Box]
) -> None:
    matching = Matching(predictions, truths)
    for percent in range(0, 101, 5):
        assert matching.label_first(percent / 100) == Matching(predictions, truths).label_first(percent / 100)


@given(st.permutations(DISJOINT))
def test_permuting_predictions_of_apart_objects_changes_nothing(predictions: list[Box]) -> None:
    assert _score(predictions, DISJOINT) == pytest.approx(1.0)
    fewer, others = predictions[:3], DISJOINT[::-1]
    assert _score(fewer, DISJOINT) == pytest.approx(_score(fewer[::-1], others))


@given(BOXES, BOXES)
def test_repeating_predictions_changes_nothing(predictions: list[Box], truths: list[Box]) -> None:
    assert _score(predictions * 2, truths) == _score(predictions, truths)


@given(st.integers(0, 60), st.integers(0, 60))
def test_reward_rises_with_the_iou_past_the_threshold_and_is_zero_before(shift: int, other: int) -> None:
    def moved(by: int) -> tuple[float, float]:
        box, truth = Box((by, 0, 100 + by, 100), "cat"), Box((0, 0, 100, 100), "cat")
        return iou(box.corners, truth.corners), _score([box], [truth], 0.5)

    (low, reward_low), (high, reward_high) = sorted((moved(shift), moved(other)))
    assert reward_low <= reward_high
    assert (reward_low > 0) == (low >= 0.5) and (reward_high > 0) == (high >= 0.5)


def test_one_perfect_box_and_one_too_many_worked_by_hand() -> None:
    # mean IoU 1, completeness 1 − (0 + 1/2)/2 = 0.75, penalty 0.6: (0.7 + 0.3·0.75)·0.6 = 0.555
    extra = Box((500, 500, 600, 600), "cat")
    assert _score([DISJOINT[0], extra], [DISJOINT[0]]) == pytest.approx(0.555)


def test_coco_average_precision_worked_by_hand() -> None:
    # One of two truths found, by the first of two detections: recall 0.5 at precision 1, 51 of 101 recall points.
    truths = [Box((0, 0, 10, 10), "a"), Box((50, 50, 60, 60), "a")]
    predictions = [Box((0, 0, 10, 10), "a"), Box((90, 90, 99, 99), "a")]
    assert Matching(predictions, truths).average_precisions() == pytest.approx([51 / 101] * 10)
    # Labels that the truths do not have play no part.
    assert Matching([*predictions, Box((0, 0, 10, 10), "b")], truths).average_precisions()[0] == pytest.approx(51 / 101)


def _coco(predictions: list[Box], truths: list[Box]) -> tuple[float, float, float]:
    """AP, AP50 and AP75 by pycocotools: one image, a score of 1 for all, the truths' labels as categories."""
    labels = sorted({truth.label for truth in truths})

    def rows(boxes: list[Box]) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        for number, ((x1, y1, x2, y2), label) in enumerate(boxes, start=1):
            if label in labels:
                box = [x1, y1, x2 - x1, y2 - y1]
                row = {"id": number, "image_id": 0, "category_id": labels.index(label), "bbox": box, "iscrowd": 0}
                found.append(row | {"area": box[2] * box[3], "score": 1.0})
        return found

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        categories = [{"id": place, "name": label} for place, label in enumerate(labels)]
        coco.dataset = {"images": [{"id": 0}], "annotations": rows(truths), "categories": categories}
        coco.createIndex()
        if not rows(predictions):
            return 0.0, 0.0, 0.0
        evaluation = COCOeval(coco, coco.loadRes(rows(predictions)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return tuple(float(value) for value in evaluation.stats[:3])


def _own(predictions: list[Box], truths: list[Box]) -> tuple[float, float, float]:
    found = Matching(predictions, truths).average_precisions()
    return sum(found) / len(found), found[0], found[5]


def test_average_precision_is_pycocotools_on_every_golden_that_has_one() -> None:
    compared = 0
    for case in cases():
        if case.payload.reward_verifier != "detection" or case.is_error:
            continue
        sample = to_sample(case.payload, case.threshold, 10.0)
        written, truths = parse_boxes(sample.completion), parse_boxes(sample.spec.ground_truth)
        if not written or not truths:
            continue
        pixels = sample.spec.params.get("det_verifier_normalized")
        predictions = predicted_relative(written, sample.context, coordinates="auto", pixels=pixels)
        assert _own(predictions, truths) == pytest.approx(_coco(predictions, truths), abs=1e-9), case.id
        compared += 1
    assert compared >= 40


@given(BOXES, BOXES)
def test_average_precision_is_pycocotools_on_drawn_boxes(predictions: list[Box], truths: list[Box]) -> None:
    assert _own(predictions, truths) == pytest.approx(_coco(predictions, truths), abs=1e-9)
