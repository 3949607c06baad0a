"""Symbolic equality of the boxed answer, by math-verify 0.7.0; in one of two dialects.

`v-triune`: `MathVerifyVerifier` of V-Triune's reward server (MiniMax-AI/One-RL-to-See-Them-All, 39bcf0d). Ground truth
and completion are lower-cased, parsed by math-verify (the completion: boxes first, no plain numbers), and compared by
sympy. The comparison is algebra: `silent` equals `listen`, and 2017 equals 2023-05-01. What cannot be parsed, or
compared, is wrong, as there.

`tolerant`: the answer as `shared.answers.blocks` finds it, all of it, against all of the truth: as text, as an exact
number (units, percent, magnitudes), as an option letter, else as algebra (`services.reward.math.tolerant`).

Accuracy is 0 or 1. Format: four tags, a quarter each. No parts. The library's own time limits are not used (they turn
a time-out into "wrong", and their signal is taken): the caller's deadline ends a sample, as an error.
"""

from services.reward.answers.dialect import is_tolerant
from services.reward.answers.tags import tag_format
from services.reward.math import tolerant
from services.reward.math.algebra import answer_part, equal, read_answer, read_part, read_truth
from services.reward.math.remembering import remember
from services.reward.verdict import Context, Verdict
from shared.answers.blocks import final_answer, reference
from shared.messages import RewardSpec

_LONG = 256  # characters of an answer that is not worth remembering


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on `completion`; `context` plays no part."""
    if is_tolerant(spec):
        answer = final_answer(completion)
        accurate = answer is not None and tolerant.agree(reference(spec.ground_truth), answer)
    else:
        accurate = _accurate(completion.lower(), spec.ground_truth.lower())
    return Verdict(float(accurate), tag_format(completion))


def _accurate(completion: str, ground_truth: str) -> bool:
    part = answer_part(completion)
    if part is None or len(part) > _LONG:
        truth = read_truth(ground_truth)
        return bool(truth) and equal(truth, read_answer(completion if part is None else part))
    return _accurate_part(ground_truth, part)


@remember(8192)
def _accurate_part(ground_truth: str, part: str) -> bool:
    truth = read_truth(ground_truth)
    return bool(truth) and equal(truth, read_part(part))
