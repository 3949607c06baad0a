"""Symbolic equality of the boxed answer: V-Triune's mathverify reward, with math-verify 0.7.0.

Source: `MathVerifyVerifier` of V-Triune's reward server (MiniMax-AI/One-RL-to-See-Them-All, 39bcf0d). Ground truth
and completion are lower-cased, parsed by math-verify (the completion: boxes first, no plain numbers), and compared by
sympy; accuracy is 0 or 1. Format: four tags, a quarter each. No parts. The comparison is algebra: `silent` equals
`listen`, and 2017 equals 2023-05-01; `exact` and `anls` are for text.

The library's own time limits are not used (they turn a time-out into "wrong", and their signal is taken): the caller's
deadline ends a sample, as an error. What cannot be parsed, or compared, is wrong, as there.
"""

import logging
from functools import lru_cache
from itertools import product

from latex2sympy2_extended import NormalizationConfig
from math_verify.grader import sympy_expr_eq
from math_verify.parser import (
    ExprExtractionConfig,
    LatexExtractionConfig,
    extract_target_from_pred,
    get_extraction_regexes,
)
from sympy import Basic, Integer, MatrixBase

from services.reward.answers import tag_format
from services.reward.verdict import Context, Verdict
from shared.messages import RewardSpec

logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs every answer that it cannot read
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)

Parsed = tuple[Basic | MatrixBase | str, ...]

_TRUTH_PATTERNS = get_extraction_regexes([LatexExtractionConfig(), ExprExtractionConfig()])
_ANSWER_PATTERNS = get_extraction_regexes(
    [
        LatexExtractionConfig(
            normalization_config=NormalizationConfig(
                basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all"
            ),
            boxed_match_priority=0,
            try_extract_without_anchor=False,
        )
    ]
)
_FLOAT_ROUNDING = 6  # decimals; with _NUMERIC_PRECISION the library's defaults
_NUMERIC_PRECISION = 15
_LONG = 256  # characters of an answer that is not worth remembering
_BOX = "\\boxed{"
_OPENERS = ("$", "[", "\\(", "\\frac")  # without one of them the library sees no mathematics outside a box


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on `completion`; `context` and `spec.params` play no part."""
    return Verdict(float(_accurate(completion.lower(), spec.ground_truth.lower())), tag_format(completion))


def _accurate(completion: str, ground_truth: str) -> bool:
    truth = _parse_truth(ground_truth)
    if not truth:
        return False
    answer = answer_part(completion)
    if answer is None:
        return _equal(truth, _parse(completion))
    return _accurate_short(ground_truth, answer) if len(answer) <= _LONG else _equal(truth, parse_part(answer))


@lru_cache(maxsize=1024)
def _parse_truth(text: str) -> Parsed:
    return _extract(text, _TRUTH_PATTERNS)


@lru_cache(maxsize=8192)
def _accurate_short(ground_truth: str, answer: str) -> bool:
    return _equal(_parse_truth(ground_truth), parse_part(answer))


def answer_part(completion: str) -> str | None:
    """The part of a lower-cased `completion` that decides what the library reads in it; None: the whole.

    Where no mathematics opens (no dollar, bracket or fraction), one pattern of the library can match, `\\boxed{.+}`,
    and it is greedy: from the first box to the last brace. An empty part stands for no match.
    """
    if any(opener in completion for opener in _OPENERS):
        return None
    start, end = completion.find(_BOX), completion.rfind("}") + 1
    return completion[start:end] if 0 <= start < end - len(_BOX) - 1 else ""


def parse_part(part: str) -> Parsed:
    """What the library reads in an `answer_part`."""
    content = part[len(_BOX) : -1]
    if content.isascii() and content.isdecimal() and (content[0] != "0" or content == "0") and len(content) <= 15:
        return (Integer(content), content)
    return _parse(part) if part else ()


def _parse(text: str) -> Parsed:
    return _extract(text, _ANSWER_PATTERNS)


def _extract(text: str, patterns: list[object]) -> Parsed:
    try:
        return tuple(
            extract_target_from_pred(text, patterns, fallback_mode="first_match", extraction_mode="first_match")
        )
    except Exception:  # noqa: BLE001 — whatever the library cannot read is no answer; it does the same in `parse`
        return ()


def _equal(truth: Parsed, answer: Parsed) -> bool:
    return any(_equal_pair(one, other) for one, other in product(truth, answer))


def _equal_pair(truth: Basic | MatrixBase | str, answer: Basic | MatrixBase | str) -> bool:
    """The library's comparison of one reading with one other; a reading that failed stays text, and equals text."""
    if isinstance(truth, str) and isinstance(answer, str):
        return truth.strip() == answer.strip() != ""
    if isinstance(truth, str) or isinstance(answer, str):
        return False
    try:
        return bool(sympy_expr_eq(truth, answer, _FLOAT_ROUNDING, _NUMERIC_PRECISION))
    except Exception:  # noqa: BLE001 — sympy raises anything; what it cannot compare is not equal, as in `verify`
        return False
