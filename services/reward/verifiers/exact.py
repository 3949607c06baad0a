"""Text equality after normalisation: Unicode NFKC, case folded, white space collapsed.

Accuracy is 1 when the final answer (the last box or answer block) equals the ground truth, else 0; an answer without
either is wrong. Format: four tags, a quarter each. Unlike `mathverify` it knows `silent` from `listen`.
"""

from services.reward.answers import final_answer, normal_text, reference, tag_format
from services.reward.verdict import Context, Verdict
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the final answer of `completion`; never raises."""
    answer = final_answer(completion)
    equal = answer is not None and normal_text(answer) == normal_text(reference(spec.ground_truth))
    return Verdict(float(equal), tag_format(completion))
