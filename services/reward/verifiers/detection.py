"""Boxes with labels against the ground truth: V-Triune's detection reward, to the last decimal; in one of two dialects.

Source: `DetectionVerifier` of V-Triune's reward server (MiniMax-AI/One-RL-to-See-Them-All, 39bcf0d); it differs from
equation 5 of the paper (arXiv 2505.18129), which is the verifier `iou`. With P predicted and G true boxes,

    accuracy = 0.6^|P − G| · Σ_k ratio_k · value_k / Σ_k ratio_k

over the two matchings (`iou_max_label_first`, `iou_max_iou_first`: IoU and completeness mixed by `iou_completeness`, at
the IoU threshold in force) and COCO's `map`, `map50`, `map75`. The ratios are the sample's `det_reward_ratio`; one that
is missing or outside [0, 1] counts as 0. Accuracy is in [0, 1]; format is 0 or 1; an answer without a readable box has
0 in everything. `parts` holds the 29 metrics of the original, those at fixed thresholds among them.

`dialect`: `v-triune` reads the first answer block as the original does (no code fence, no prose, no apostrophe in a
label); `tolerant` reads the last one with `shared.answers.boxes`. What is made of the boxes is the same.

Deviation: what was an exception there, and so a reward of 0, is a VerifierError here: a ratio that is no number, an
image without extent, coordinates that overflow.
"""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from services.reward.answers.dialect import is_tolerant
from services.reward.boxes.geometry import predicted_relative
from services.reward.boxes.matching import Match, Matching
from services.reward.boxes.thresholds import thresholds
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.boxes import read_boxes, truth_boxes
from shared.messages import RewardSpec
from shared.samples.boxes import Box, parse_boxes

_SIZE_PENALTY = 0.6  # for each box too many or too few
_RATIOS = ("iou_max_iou_first", "iou_max_label_first", "map", "map50", "map75")
_VALUES = ("iou_score_max_iou", "iou_score_max_label", "map_score", "map50_score", "map75_score")
_REPORTED = (
    ("iou_match", 50),
    ("iou_match", 95),
    ("label_match", 50),
    ("label_match", 75),
    ("label_match", 95),
    ("label_match", 99),
)
_PARTS = (
    "size_penalty",
    *(f"pure_{name}" for name in _VALUES),
    *(f"weighted_{name}" for name in _VALUES),
    *(f"report_iou_{at}_{how}_{what}" for how, at in _REPORTED for what in ("pure", "precision", "recall")),
)
_NOTHING: Mapping[str, float] = MappingProxyType(dict.fromkeys(_PARTS, 0.0))


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the boxes of `completion`; raises VerifierError for a wrong parameter."""
    ratios = _ratios(spec.params.get("det_reward_ratio", {}))
    at = thresholds(spec.options, context.progress)
    tolerant = is_tolerant(spec)
    predictions = (read_boxes(completion) or None) if tolerant else parse_boxes(completion)
    truths = _truths(spec.ground_truth, tolerant)
    form = _format(completion, predictions)
    if predictions is None or truths is None:
        return Verdict(0.0, form, _NOTHING)
    relative = predicted_relative(
        predictions,
        context,
        coordinates=spec.options.get("coordinates", "auto"),
        pixels=spec.params.get("det_verifier_normalized"),
    )
    matching = Matching(relative, truths)
    penalty = _SIZE_PENALTY ** abs(len(predictions) - len(truths))
    values = _values(matching, at, ratios["iou_completeness"])
    total = sum(ratios[name] for name in _RATIOS)
    weighted = [value * penalty for value in values]
    share = sum(ratios[name] * value for name, value in zip(_RATIOS, weighted, strict=True))
    numbers = (penalty, *values, *weighted, *_reported(matching))
    return Verdict(share / total if total else 0.0, form, dict(zip(_PARTS, numbers, strict=True)))


@lru_cache(maxsize=1024)
def _truths(ground_truth: str, tolerant: bool) -> tuple[Box, ...] | None:
    """The true boxes; None where V-Triune's reading finds none, a VerifierError where the tolerant one does."""
    if not tolerant:
        return tuple(parse_boxes(ground_truth) or ()) or None
    try:
        return tuple(truth_boxes(ground_truth, labelled=True))
    except ValueError as error:
        raise VerifierError(f"ground truth {ground_truth[:200]!r} {error}") from None


def _format(completion: str, predictions: list[Box] | None) -> float:
    """1 for an answer on lines of its own, closed once, with a readable box; what stands before it is not judged."""
    tagged = "\n<answer>\n" in completion and completion.count("\n</answer>") == 1
    return float(tagged and predictions is not None)


def _ratios(given: object) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise VerifierError(f"det_reward_ratio is {given!r}; expected a table of numbers")
    ratios: dict[str, float] = {}
    for name in ("iou_completeness", *_RATIOS):
        value = given.get(name, 0.0)
        if not isinstance(value, (int, float)):
            raise VerifierError(f"det_reward_ratio.{name} is {value!r}; expected a number from 0 to 1")
        ratios[name] = value if 0.0 <= value <= 1.0 else 0.0
    return ratios


def _values(matching: Matching, at: tuple[float, ...], completeness: float) -> tuple[float, ...]:
    """The five values of `_VALUES`, each in [0, 1], before the size penalty."""
    precisions = matching.average_precisions()
    return (
        sum(matching.iou_first(threshold).weighted(completeness) for threshold in at) / len(at),
        sum(matching.label_first(threshold).weighted(completeness) for threshold in at) / len(at),
        sum(precisions) / len(precisions),
        precisions[0],
        precisions[5],
    )


def _reported(matching: Matching) -> list[float]:
    """Mean IoU, precision and recall at fixed thresholds, without the size penalty."""
    numbers: list[float] = []
    for how, at in _REPORTED:
        match: Match = (matching.iou_first if how == "iou_match" else matching.label_first)(at / 100)
        numbers += (match.mean_iou, match.precision, match.recall)
    return numbers
