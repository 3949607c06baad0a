"""Average normalised Levenshtein similarity, for OCR: how much of the text is right, in order.

Source: Biten et al., "Scene Text Visual Question Answering" (ICCV 2019), equation 1: with the edit distance d between
normalised answer and ground truth and NL = d / (length of the longer one), accuracy = 1 − NL where NL < 0.5, else 0.
Range [0, 1]. An anagram shares letters, not their order, and gains nothing. Both texts lose their dress first
(`shared.answers.plain`). Format: four tags, a quarter each. Raises VerifierError for a ground truth without text.
`parts`: `similarity`, 1 − NL before the cut.
"""

from rapidfuzz.distance import Levenshtein

from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.blocks import final_answer, reference
from shared.answers.plain import comparable
from shared.messages import RewardSpec

_CUT = 0.5


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the final answer of `completion`."""
    truth = comparable(reference(spec.ground_truth))
    if not truth:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} has no text to compare with")
    answer = final_answer(completion)
    similarity = 0.0 if answer is None else Levenshtein.normalized_similarity(comparable(answer), truth)
    accuracy = similarity if similarity > 1.0 - _CUT else 0.0
    return Verdict(accuracy, tag_format(completion), {"similarity": similarity})
