"""A number within a tolerance.

Accuracy is 1 when |answer − truth| <= max(`tolerance`, `relative_tolerance`·|truth|), else 0; the sample's parameters
give both (default 0 and 1e-6; ChartQA's relaxed accuracy is a relative tolerance of 0.05). The final answer must be one
number in one of the forms of `shared.answers.numbers`: a magnitude word counts (3 million is not 3), two different
known units contradict each other (5 m is not 5 cm), and a percent sign may stand on one side alone. Format: four tags,
a quarter each. Raises VerifierError for a ground truth that is no number and for a tolerance that is none.
"""

import math
from fractions import Fraction

from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.blocks import final_answer, reference
from shared.answers.numbers import read_number
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the final answer of `completion`."""
    truth = read_number(reference(spec.ground_truth))
    if truth is None:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} is no number")
    bound = max(_tolerance(spec, "tolerance", 0.0), _tolerance(spec, "relative_tolerance", 1e-6) * abs(truth.value))
    answer = read_number(final_answer(completion) or "")
    return Verdict(float(answer is not None and answer.agrees(truth, bound)), tag_format(completion))


def _tolerance(spec: RewardSpec, name: str, default: float) -> Fraction:
    value = spec.params.get(name)
    if value is None:
        return Fraction(str(default))
    if not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
        raise VerifierError(f"{name} is {value!r}; expected a number of at least 0")
    return Fraction(str(value))
