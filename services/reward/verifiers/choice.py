"""Multiple choice: the letter of the right option.

Accuracy is 1 when the final answer names the letter of the ground truth and no other (`shared.answers.letters` lists
the forms), else 0. Format: four tags, a quarter each. Raises VerifierError for a ground truth that names no letter.
"""

from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.blocks import final_answer, reference
from shared.answers.letters import read_letter
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the final answer of `completion`."""
    truth = read_letter(reference(spec.ground_truth))
    if truth is None:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} names no option; expected a letter")
    return Verdict(float(read_letter(final_answer(completion) or "") == truth), tag_format(completion))
