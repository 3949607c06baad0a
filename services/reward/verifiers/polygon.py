"""One polygon against one polygon (a segmentation mask's outline): accuracy is their IoU.

Corners `[[x, y], …]` or `[x1, y1, x2, y2, …]`, by shapely. Range [0, 1]; below the parameter `threshold` (default 0) it
is 0. Format: four tags, a quarter each. `parts`: `iou`. Raises VerifierError for a ground truth that is no polygon.
"""

from services.reward.answers.tags import tag_format
from services.reward.boxes.shapes import overlap, polygon, read_shape, thresholded, truth_shape
from services.reward.verdict import Context, Verdict, VerifierError
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the last polygon of `completion`."""
    truth = truth_shape(spec.ground_truth, polygon)
    if truth is None:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} is no polygon; expected [[x, y], …]")
    answer = read_shape(completion, polygon)
    value = 0.0 if answer is None else overlap(answer, truth)
    return Verdict(thresholded(value, spec.params), tag_format(completion), {"iou": value})
