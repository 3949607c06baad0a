"""Average normalised Levenshtein similarity, for OCR: how much of the text is right, in order.

Source: Biten et al., "Scene Text Visual Question Answering" (ICCV 2019), equation 1: with the edit distance d between
normalised answer and ground truth and NL = d / (length of the longer one), accuracy = 1 − NL where NL < 0.5, else 0.
Range [0, 1]. An anagram shares letters, not their order, and gains nothing. Format: four tags, a quarter each.
Raises VerifierError for a ground truth without text. `parts`: `similarity`, 1 − NL before the cut.
"""

from services.reward.answers import final_answer, normal_text, reference, tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.messages import RewardSpec

_CUT = 0.5


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the final answer of `completion`."""
    truth = normal_text(reference(spec.ground_truth))
    if not truth:
        raise VerifierError(f"ground truth {spec.ground_truth!r} has no text to compare with")
    answer = final_answer(completion)
    similarity = _similarity(normal_text(answer), truth) if answer is not None else 0.0
    accuracy = similarity if similarity > 1.0 - _CUT else 0.0
    return Verdict(accuracy, tag_format(completion), {"similarity": similarity})


def _similarity(answer: str, truth: str) -> float:
    longer = max(len(answer), len(truth))
    if abs(len(answer) - len(truth)) >= longer * _CUT:  # at least so many edits: below the cut whatever they are
        return 0.0
    return 1.0 - edit_distance(answer, truth) / longer


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's distance: insertions, deletions and substitutions that make `b` of `a`; O(len(a)·len(b)) time."""
    row = list(range(len(b) + 1))
    for place, letter in enumerate(a, start=1):
        diagonal, row[0] = row[0], place
        for column, other in enumerate(b, start=1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (letter != other))
    return row[-1]
