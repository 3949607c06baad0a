"""One rotated box against another: accuracy is their IoU.

A box is `[cx, cy, width, height, angle]`, the angle in degrees, by shapely; turned by 180° it is the same. Range
[0, 1]; below the parameter `threshold` (default 0) it is 0. Format: four tags, a quarter each. `parts`: `iou`. Raises
VerifierError for a ground truth that is no such box.
"""

from services.reward.answers.tags import tag_format
from services.reward.boxes.shapes import overlap, read_shape, rotated_box, thresholded, truth_shape
from services.reward.verdict import Context, Verdict, VerifierError
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the last rotated box of `completion`."""
    truth = truth_shape(spec.ground_truth, rotated_box)
    if truth is None:
        raise VerifierError(
            f"ground truth {spec.ground_truth[:200]!r} is no rotated box; expected [cx, cy, width, height, angle]"
        )
    answer = read_shape(completion, rotated_box)
    value = 0.0 if answer is None else overlap(answer, truth)
    return Verdict(thresholded(value, spec.params), tag_format(completion), {"iou": value})
