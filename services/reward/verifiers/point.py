"""A point that must lie in a box or polygon, as in GUI grounding and pointing.

Source: the accuracy of ScreenSpot (Cheng et al., "SeeClick", ACL 2024): 1 when the point lies in the box, its border
included, else 0. The ground truth is a box `[x1, y1, x2, y2]` or a polygon; the answer a point `[x, y]`, or a box or
polygon, which stands for its centre. Format: four tags, a quarter each. `parts`: `distance` to the region, 0 inside.
Raises VerifierError for a ground truth that is neither.
"""

from services.reward.answers.tags import tag_format
from services.reward.boxes.shapes import read_point, region, truth_shape
from services.reward.verdict import Context, Verdict, VerifierError
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the last point of `completion`."""
    truth = truth_shape(spec.ground_truth, region)
    if truth is None:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} is no box and no polygon")
    answer = read_point(completion)
    if answer is None:
        return Verdict(0.0, tag_format(completion))
    return Verdict(float(truth.covers(answer)), tag_format(completion), {"distance": float(truth.distance(answer))})
