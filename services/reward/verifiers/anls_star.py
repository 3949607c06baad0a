"""Nested answers: ANLS*, the similarity of dictionaries, lists and texts in one another.

Source: Peer et al., "ANLS* — A universal document processing metric for generative large language models" (2024), by
its authors' library anls-star: leaves by ANLS (cut at 0.5), lists matched at the least cost, missing and additional
entries count as 0. Range [0, 1]. Truth and answer are JSON or Python literals (a plain text is one leaf). Format: four
tags, a quarter each. Raises VerifierError for a ground truth without text, and for one of more than 1,000 leaves.

The library's edit distance is rapidfuzz's here: its own is written in Python, and takes a second for two pages of text.
"""

from anls_star import anls_score
from anls_star import anls_star as library
from rapidfuzz.distance import Levenshtein

from services.reward.answers.structures import MOST_LEAVES, count_leaves, leaves_as_text, read_structure
from services.reward.answers.tags import tag_format
from services.reward.verdict import Context, Verdict, VerifierError
from shared.messages import RewardSpec

library.ANLSLeaf._levenshtein_distance = staticmethod(Levenshtein.distance)


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the last structure of `completion`."""
    truth = read_structure(spec.ground_truth)
    if truth in ("", [], {}) or count_leaves(truth) > MOST_LEAVES:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r}: expected 1 to {MOST_LEAVES} values")
    answer = read_structure(completion)
    if count_leaves(answer) > 2 * MOST_LEAVES:
        return Verdict(0.0, tag_format(completion))
    return Verdict(float(anls_score(leaves_as_text(truth), leaves_as_text(answer))), tag_format(completion))
