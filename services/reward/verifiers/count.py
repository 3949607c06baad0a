"""A whole number of things, in digits or in words.

Accuracy is 1 when the final answer is the number of the ground truth (`shared.answers.numbers` lists the forms; a word
after it, `3 objects`, is allowed; `none` is 0), else 0. Format: four tags, a quarter each. Raises VerifierError for a
ground truth that is no whole number of at least 0. `parts`: `error`, the absolute difference, where the answer is one.
"""

import re

from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.blocks import final_answer, reference
from shared.answers.numbers import read_number
from shared.answers.plain import comparable
from shared.messages import RewardSpec

_NONE = re.compile(r"none|nothing|(?:(?:so |in total,? )?there (?:are|is) )?no(?: [a-z ]{1,60})?|.{0,8}没有.{0,12}|无")
_LARGEST = 10**12


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the final answer of `completion`."""
    truth = read_count(reference(spec.ground_truth))
    if truth is None:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} is no whole number")
    answer = read_count(final_answer(completion) or "")
    if answer is None:
        return Verdict(0.0, tag_format(completion))
    return Verdict(float(answer == truth), tag_format(completion), {"error": float(abs(answer - truth))})


def read_count(text: str) -> int | None:
    """The whole number that `text` says, at least 0; None when it says none."""
    found = read_number(text)
    if found is None:
        return 0 if _NONE.fullmatch(comparable(text)) else None
    if found.percent or found.value.denominator != 1 or not 0 <= found.value <= _LARGEST:
        return None
    return int(found.value)
