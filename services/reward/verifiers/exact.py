"""Text equality after normalisation: dress (markdown, LaTeX, quotes), Unicode NFKC, case, white space, full stop.

Accuracy is 1 when the final answer equals the ground truth (`Yes, it is.` is `yes`), else 0. Format: four tags, a
quarter each. Unlike `mathverify` in V-Triune's dialect it knows `silent` from `listen`. Raises VerifierError for a
ground truth without text.
"""

from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.blocks import final_answer, reference
from shared.answers.plain import comparable, same_words
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the final answer of `completion`."""
    truth = comparable(reference(spec.ground_truth))
    if not truth:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} has no text to compare with")
    answer = final_answer(completion)
    return Verdict(float(answer is not None and same_words(answer, truth)), tag_format(completion))
