"""The verifiers' names and parameters: what a sample may ask for, and whether its row can be used at all.

The reward service has one file for each built-in one. Nothing here needs sympy, or runs a verifier.
"""

import difflib
from collections.abc import Callable, Collection, Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from shared.answers.blocks import reference
from shared.answers.boxes import truth_boxes
from shared.answers.letters import read_letter
from shared.answers.numbers import read_number
from shared.answers.plain import plain
from shared.answers.programs import read_cases
from shared.samples.schema import RATIO_NAMES

VERIFIERS: Mapping[str, str] = MappingProxyType(
    {
        "mathverify": "symbolic equality of the boxed answer, by the math-verify library (V-Triune)",
        "detection": "boxes with labels: matched IoU, completeness and mAP, under a size penalty (V-Triune)",
        "exact": "the final answer equals the ground truth after normalisation",
        "anls": "1 minus the normalised edit distance of the final answer, 0 from a distance of 0.5 (OCR)",
        "numeric": "the final number equals the ground truth within a tolerance",
        "choice": "the final answer names the right option letter",
        "count": "the final answer is the right whole number, in digits or in words",
        "iou": "the IoU of one box with the ground truth, 0 below a threshold (V-Triune's paper, equation 5)",
        "polygon": "the IoU of one polygon with the ground truth",
        "rotated-iou": "the IoU of one rotated box with the ground truth",
        "point": "the point lies in the true box or polygon (ScreenSpot)",
        "keypoints": "the similarity of key points (COCO's OKS)",
        "table": "a table's structure and text, by tree edit distance (TEDS)",
        "chart-derender": "the numbers behind a chart as a table, by relative mapping similarity (DePlot)",
        "anls-star": "nested objects, lists and texts, by ANLS*",
        "json": "which fields of an object are right, under a schema if the sample has one",
        "python": "a program that must pass unit tests",
        "judge": "a model's opinion, from an OpenAI-compatible endpoint that sees the images",
        "format": "only the think and answer tags",
        "composite": "a weighted mean of other verifiers, with the weights that the sample names",
    }
)
"""Name → what it judges, in one line, of the built-in ones."""

SELF_JUDGED = frozenset(VERIFIERS) - {"format", "composite", "python", "judge"}
"""Built-in verifiers that must give a ground truth 1.0 against itself."""

ENTRY_POINTS = "triune.verifiers"
"""The entry point group through which another package adds a verifier."""

DETECTION_RATIOS: Mapping[str, float] = MappingProxyType({"iou_max_label_first": 1.0, "iou_completeness": 0.3})
"""`det_reward_ratio` of a detection row that has none: the weights of Orsta-Data-47k."""


@cache
def known_verifiers() -> Mapping[str, str]:
    """Name → what it judges (an added one: where it comes from), of every verifier that is installed here."""
    added = {entry.name: f"added by {entry.value}" for entry in entry_points(group=ENTRY_POINTS)}
    return MappingProxyType({**added, **VERIFIERS})


def verifiers_there_are(name: str | None, known: Collection[str]) -> str:
    """The end of the sentence on a verifier `name` that is none of `known`."""
    near = difflib.get_close_matches(name or "", known, 1)
    return f"there are {', '.join(sorted(known))}" + (f"; the nearest one is {near[0]!r}" if near else "")


# ---------------------------------------------------------------- parameters

_Check = Callable[[object], bool]
_IN_UNIT = "a number from 0 to 1"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _at_least_0(value: object) -> bool:
    return _is_number(value) and 0.0 <= value < float("inf")  # type: ignore[operator]


def _in_unit(value: object) -> bool:
    return _is_number(value) and 0.0 <= value <= 1.0  # type: ignore[operator]


def _cpu_time(value: object) -> bool:
    return _is_number(value) and 0.1 <= value <= 60.0  # type: ignore[operator]


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_dialect(value: object) -> bool:
    return value in ("tolerant", "v-triune")


_DIALECT = {"dialect": (_is_dialect, "'tolerant' or 'v-triune'")}
_TOLERANCES = {
    "tolerance": (_at_least_0, "a number of at least 0"),
    "relative_tolerance": (_at_least_0, "a number of at least 0"),
}
_THRESHOLD = {"threshold": (_in_unit, _IN_UNIT)}
PARAMETERS: Mapping[str, Mapping[str, tuple[_Check, str]]] = MappingProxyType(
    {
        "mathverify": _DIALECT,
        "detection": _DIALECT,
        "numeric": _TOLERANCES,
        "polygon": _THRESHOLD,
        "rotated-iou": _THRESHOLD,
        "keypoints": {"sigmas": (_is_list, "a list of numbers above 0")},
        "table": {"structure": (_is_bool, "true or false")},
        "json": {"schema": (_is_table, "a JSON Schema")},
        "python": {"partial": (_is_bool, "true or false"), "cpu_s": (_cpu_time, "a number from 0.1 to 60")},
        "judge": {"rubric": (_is_text, "a text"), "whole": (_is_bool, "true or false")},
        "composite": {"verifiers": (_is_list, "a list of verifiers"), **_DIALECT},
    }
)
"""Verifier → its parameters, each with its test and what is expected of it."""
_DETECTION = {
    "det_verifier_normalized": (_is_bool, "true or false"),
    "det_reward_ratio": (_is_table, "a table of numbers"),
}
_V_TRIUNE = frozenset(("is_training", "step", "total_steps", "image_path", "image_grid_thw", "verifier_style"))


def filled_in(verifier: str, params: Mapping[str, object]) -> dict[str, object]:
    """`params` without what is null, and with the verifier's defaults for what is absent."""
    kept = {name: value for name, value in params.items() if value is not None}
    ratios = kept.get("det_reward_ratio")
    if isinstance(ratios, Mapping):
        kept["det_reward_ratio"] = {name: value for name, value in ratios.items() if value is not None}
    if verifier == "detection" and not kept.get("det_reward_ratio", {}):
        kept["det_reward_ratio"] = dict(DETECTION_RATIOS)
    return kept


def why_unusable(verifier: str, ground_truth: str, params: Mapping[str, object]) -> str | None:
    """Why no completion can be scored with these; None when it can, as far as no verifier has to run for it.

    `params` are the row's `verifier_parm`, nulls and absences allowed. A verifier that another package or a plugin
    brings checks its own.
    """
    if verifier not in VERIFIERS:
        return None
    params = filled_in(verifier, params)
    return _wrong_parameter(verifier, params) or _unreadable_truth(verifier, ground_truth, params)


def _wrong_parameter(verifier: str, params: Mapping[str, object]) -> str | None:
    known = {**PARAMETERS.get(verifier, {}), **_DETECTION}
    for name, value in params.items():
        if name in _V_TRIUNE:
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            return f"verifier {verifier!r} has no parameter {name!r}; " + (
                f"the nearest one is {near[0]!r}" if near else f"there are {', '.join(known)}"
            )
        test, expected = known[name]
        if not test(value):
            return f"{name} is {value!r}; expected {expected}"
    if verifier == "composite" and not params.get("verifiers"):
        return "verifiers is missing; expected the list of those that the composite is of"
    return _wrong_ratios(params.get("det_reward_ratio")) if verifier == "detection" else None


def _wrong_ratios(ratios: object) -> str | None:
    assert isinstance(ratios, Mapping)
    for name, value in ratios.items():
        if name not in RATIO_NAMES:
            return f"det_reward_ratio has no {name!r}; there are {', '.join(RATIO_NAMES)}"
        if not _in_unit(value):
            return f"det_reward_ratio.{name} is {value!r}; expected {_IN_UNIT}"
    if not sum(value for name, value in ratios.items() if name != "iou_completeness"):
        return f"det_reward_ratio sums to 0 ({dict(ratios)}); expected a weight above 0 besides iou_completeness"
    return None


# ---------------------------------------------------------------- truths


def _unreadable_truth(verifier: str, truth: str, params: Mapping[str, object]) -> str | None:
    """Why `truth` is none for the verifier."""
    if verifier in ("format", "composite"):
        return None
    if verifier == "python":
        return _wrong_tests(truth)
    if not truth.strip() or not reference(truth):
        return f"ground truth {truth[:200]!r} holds no answer"
    if verifier in ("detection", "iou"):
        return _wrong_boxes(truth, single=verifier == "iou")
    said = reference(truth)
    if verifier == "numeric" and read_number(said) is None:
        return f"ground truth {truth[:200]!r} is no number"
    if verifier == "choice" and read_letter(said) is None:
        return f"ground truth {truth[:200]!r} names no option; expected a letter"
    if verifier in ("exact", "anls") and not plain(said):
        return f"ground truth {truth[:200]!r} has no text to compare with"
    return None


def _wrong_tests(truth: str) -> str | None:
    try:
        read_cases(truth)
    except ValueError as error:
        return f"ground truth {truth[:200]!r} {error}"
    return None


def _wrong_boxes(truth: str, *, single: bool) -> str | None:
    try:
        boxes = truth_boxes(truth, labelled=not single)
    except ValueError as error:
        return f"ground truth {truth[:200]!r} {error}"
    if single and len(boxes) != 1:
        return f"ground truth {truth[:200]!r} holds {len(boxes)} boxes; expected one"
    return None
