"""A number within a tolerance.

Accuracy is 1 when |answer − truth| <= max(`tolerance`, `relative_tolerance`·|truth|), else 0; the sample's parameters
give both (default 0 and 1e-6; ChartQA's relaxed accuracy is a relative tolerance of 0.05). The final answer must be one
number, perhaps with thousands separators, an exponent, a currency sign before, a percent sign or a word after it, or a
plain fraction. Format: four tags, a quarter each. Raises VerifierError for a ground truth that is no number and for a
tolerance that is none.
"""

import math
import re

from services.reward.answers import final_answer, reference, tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.messages import RewardSpec

_LONGEST = 128  # characters of an answer that may be a number
_NUMBER = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][+-]?\d{1,4})?"
_PATTERN = re.compile(rf"[$€£¥]?\s?({_NUMBER})(?:\s?/\s?({_NUMBER}))?\s?(?:%|[A-Za-z°]+\.?)?")


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the final answer of `completion`."""
    truth = read_number(reference(spec.ground_truth))
    if truth is None:
        raise VerifierError(f"ground truth {spec.ground_truth!r} is no number")
    bound = max(_tolerance(spec, "tolerance", 0.0), _tolerance(spec, "relative_tolerance", 1e-6) * abs(truth))
    answer = read_number(final_answer(completion) or "")
    return Verdict(float(answer is not None and abs(answer - truth) <= bound), tag_format(completion))


def read_number(text: str) -> float | None:
    """The one finite number that `text` is; None when it is none."""
    plain = text.strip().strip("$").replace("\\%", "%").replace("−", "-")
    found = _PATTERN.fullmatch(plain) if len(plain) <= _LONGEST else None
    if found is None:
        return None
    try:
        number = float(found[1].replace(",", "")) / (float(found[2].replace(",", "")) if found[2] else 1.0)
    except (ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _tolerance(spec: RewardSpec, name: str, default: float) -> float:
    value = spec.params.get(name)
    if value is None:
        return default
    if not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
        raise VerifierError(f"{name} is {value!r}; expected a number of at least 0")
    return float(value)
