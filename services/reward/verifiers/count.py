"""How many: a whole number, in digits or in English words up to twenty.

Accuracy is 1 when the final answer is the number of the ground truth, else 0; a word after it (`3 objects`) is
allowed. Format: four tags, a quarter each. Raises VerifierError for a ground truth that is no whole number.
`parts`: `error`, the absolute difference, where the answer is a number.
"""

import re

from services.reward.answers import final_answer, normal_text, reference, tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.messages import RewardSpec

_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_COUNT = re.compile(r"(\d{1,9}|[a-z]{3,9})(?: [a-z]{1,32}){0,3}\.?")


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the final answer of `completion`."""
    truth = read_count(reference(spec.ground_truth))
    if truth is None:
        raise VerifierError(f"ground truth {spec.ground_truth!r} is no whole number")
    answer = read_count(final_answer(completion) or "")
    if answer is None:
        return Verdict(0.0, tag_format(completion))
    return Verdict(float(answer == truth), tag_format(completion), {"error": float(abs(answer - truth))})


def read_count(text: str) -> int | None:
    """The whole number that `text` says, at least 0; None when it says none."""
    found = _COUNT.fullmatch(normal_text(text)) if len(text) <= 256 else None
    if found is None:
        return None
    word = found[1]
    if word.isdecimal():
        return int(word)
    return _WORDS.index(word) if word in _WORDS else None
