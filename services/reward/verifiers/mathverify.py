"""Symbolic equality of the boxed answer: V-Triune's mathverify reward, with math-verify 0.7.0.

Source: `MathVerifyVerifier` of V-Triune's reward server (MiniMax-AI/One-RL-to-See-Them-All, 39bcf0d). Ground truth
and completion are lower-cased, parsed by math-verify (the completion: boxes first, no plain numbers), and compared by
sympy; accuracy is 0 or 1. Format: four tags, a quarter each. No parts. The comparison is algebra: `silent` equals
`listen`, and 2017 equals 2023-05-01; `exact` and `anls` are for text.

The library's own time limits are not used (they turn a time-out into "wrong", and their signal is taken): the caller's
deadline ends a sample, as an error. What cannot be parsed, or compared, is wrong, as there.
"""

from functools import lru_cache

from services.reward.answers import tag_format
from services.reward.math.algebra import answer_part, equal, read_answer, read_part, read_truth
from services.reward.verdict import Context, Verdict
from shared.messages import RewardSpec

_LONG = 256  # characters of an answer that is not worth remembering


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on `completion`; `context` and `spec.params` play no part."""
    return Verdict(float(_accurate(completion.lower(), spec.ground_truth.lower())), tag_format(completion))


def _accurate(completion: str, ground_truth: str) -> bool:
    part = answer_part(completion)
    if part is None or len(part) > _LONG:
        truth = read_truth(ground_truth)
        return bool(truth) and equal(truth, read_answer(completion if part is None else part))
    return _accurate_part(ground_truth, part)


@lru_cache(maxsize=8192)
def _accurate_part(ground_truth: str, part: str) -> bool:
    truth = read_truth(ground_truth)
    return bool(truth) and equal(truth, read_part(part))
