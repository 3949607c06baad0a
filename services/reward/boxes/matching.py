"""Predicted boxes against the ground truth: the two matchings of V-Triune's detection reward, and COCO's mAP.

P predictions and G ground truths of one image, P, G >= 1. Every matching depends on its threshold only through the
set of pairs whose IoU reaches it, so what holds for one threshold is kept for all that no pair's IoU lies between.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.reward.boxes.geometry import iou
from shared.samples.boxes import Box

COCO_THRESHOLDS = tuple(0.5 + step * ((0.95 - 0.5) / 9) for step in range(10))
_RECALLS = tuple(step * 0.01 for step in range(101))
_MAX_DETECTIONS = 100  # a category, as in COCO
_MAX_AREA = 1e10  # COCO's area range `all`: an unmatched detection beyond it counts neither way


@dataclass(frozen=True, slots=True)
class Match:
    """What a matching found: `pairs` matched, and the `total` of their IoUs, among P predictions and G truths."""

    pairs: int
    total: float
    predictions: int
    truths: int

    @property
    def mean_iou(self) -> float:
        return self.total / self.truths

    @property
    def precision(self) -> float:
        return 1.0 - (self.predictions - self.pairs) / self.predictions

    @property
    def recall(self) -> float:
        return 1.0 - (self.truths - self.pairs) / self.truths

    def weighted(self, completeness: float) -> float:
        """IoU and completeness mixed, in [0, 1]: (1 − c)·mean IoU + c·(1 − (misses + false alarms)/2)."""
        return self.mean_iou * (1.0 - completeness) + (self.precision + self.recall) / 2 * completeness


class Matching:
    """All IoUs of one image's predictions and truths, and what follows from them."""

    def __init__(self, predictions: Sequence[Box], truths: Sequence[Box]) -> None:
        self._predictions = predictions
        self._truths = truths
        self._iou = [[iou(box, truth) for box, _ in predictions] for truth, _ in truths]  # (G, P)
        labels = [label for _, label in predictions]
        # One list a truth: (prediction, IoU) of those with its label, in order.
        self._same = [
            [(place, row[place]) for place, label in enumerate(labels) if label == truth.label]
            for row, truth in zip(self._iou, truths, strict=True)
        ]
        self._levels = sorted({value for pairs in self._same for _, value in pairs})
        self._by_label: dict[int, Match] = {}
        self._corner = self._corner_maxima()

    def label_first(self, threshold: float) -> Match:
        """Each truth, in order, takes the unused prediction of its label with the highest IoU, the first of equals.

        It counts from `threshold` on. Greedy in the order of the truths, not optimal; so is V-Triune's.
        """
        key = bisect_left(self._levels, threshold)
        if key not in self._by_label:
            self._by_label[key] = self._match_labels(threshold)
        return self._by_label[key]

    def _match_labels(self, threshold: float) -> Match:
        used: set[int] = set()
        total = 0.0
        for pairs in self._same:
            best, place = -1.0, -1
            for candidate, value in pairs:
                if value > best and candidate not in used:
                    best, place = value, candidate
            if place >= 0 and best >= threshold:
                used.add(place)
                total += best
        return Match(len(used), total, len(self._predictions), len(self._truths))

    def iou_first(self, threshold: float) -> Match:
        """V-Triune's second matching, as its server really computes it.

        Meant to take the best pair of all each time, it takes the best IoU of all remaining pairs but removes, and
        compares the labels of, the last remaining prediction and the last remaining truth: a pair whose labels differ
        counts as matched with an IoU of 0. Kept because the metrics `report_iou_*_iou_match_*` are defined by it.
        """
        total, pairs = 0.0, 0
        for best, same in self._corner:
            if best < threshold:
                break
            pairs += 1
            total += best if same else 0.0
        return Match(pairs, total, len(self._predictions), len(self._truths))

    def _corner_maxima(self) -> list[tuple[float, bool]]:
        """For k = 0, 1, …: the highest IoU among the first P − k and G − k, and whether the two last labels agree."""
        steps = min(len(self._predictions), len(self._truths))
        rows, columns = len(self._truths) - steps, len(self._predictions) - steps
        found: list[tuple[float, bool]] = []
        highest = 0.0  # one of rows and columns is 0: the corner is empty
        for _ in range(steps):
            highest = max(
                highest,
                max(self._iou[rows][: columns + 1]),
                max((row[columns] for row in self._iou[:rows]), default=0.0),
            )
            found.append((highest, self._truths[rows].label == self._predictions[columns].label))
            rows, columns = rows + 1, columns + 1
        return found[::-1]

    def average_precisions(self) -> tuple[float, ...]:
        """COCO's average precision at each of its ten thresholds, the mean over the labels of the truths.

        All detections have the same confidence and keep their order; 101 recall points; 100 detections a label.
        Predictions of other labels do not count. Source: `COCOeval` of cocodataset/cocoapi, for one image.
        """
        categories = [self._of_label(label) for label in {label: None for _, label in self._truths}]
        known: dict[int, float] = {}
        found: list[float] = []
        for threshold in COCO_THRESHOLDS:
            key = bisect_left(self._levels, min(threshold, 1 - 1e-10))
            if key not in known:
                known[key] = sum(self._precision(*one, threshold) for one in categories) / len(categories)
            found.append(known[key])
        return tuple(found)

    def _of_label(self, label: str) -> tuple[list[list[float]], list[int]]:
        """The IoUs of each truth with that label, (P,), and the places of the predictions that have it."""
        rows = [row for row, truth in zip(self._iou, self._truths, strict=True) if truth.label == label]
        return rows, [place for place, box in enumerate(self._predictions) if box.label == label][:_MAX_DETECTIONS]

    def _precision(self, rows: Sequence[Sequence[float]], places: Sequence[int], threshold: float) -> float:
        taken = [False] * len(rows)
        hits: list[bool] = []
        for place in places:
            best, match = min(threshold, 1 - 1e-10), -1
            for index, row in enumerate(rows):
                if not taken[index] and row[place] >= best:
                    best, match = row[place], index
            if match >= 0:
                taken[match] = True
            elif _area(self._predictions[place]) > _MAX_AREA:
                continue
            hits.append(match >= 0)
        return _average_precision(tuple(hits), len(rows))


def _area(box: Box) -> float:
    x1, y1, x2, y2 = box.corners
    return (x2 - x1) * (y2 - y1)


@lru_cache(maxsize=4096)
def _average_precision(hits: tuple[bool, ...], truths: int) -> float:
    """Mean, over 101 recalls, of the best precision reached at that recall or later; `hits` in rank order."""
    precisions: list[float] = []  # at each hit
    for rank, hit in enumerate(hits, start=1):
        if hit:
            precisions.append((len(precisions) + 1) / rank)
    for place in range(len(precisions) - 2, -1, -1):
        precisions[place] = max(precisions[place], precisions[place + 1])
    total, seen = 0.0, 0
    for found, precision in enumerate(precisions, start=1):
        reached = bisect_right(_RECALLS, found / truths)
        total += (reached - seen) * precision
        seen = reached
    return total / len(_RECALLS)
