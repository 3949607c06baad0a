"""One box against one box: accuracy is their IoU where it reaches the threshold in force, else 0.

Source: V-Triune's paper (arXiv 2505.18129), equation 5, with the dynamic threshold of its section 3.2. Range [0, 1];
with the threshold mode `average` the mean over the eleven thresholds. An answer with no box, or more than one, is
wrong; labels are not compared. Format: four tags, a quarter each (equation 4). `parts`: `iou`, before the threshold.
Raises VerifierError for a ground truth that is not one box, and for wrong settings of threshold or coordinates.
"""

from services.reward.answers.tags import tag_format
from services.reward.boxes.geometry import iou, predicted_relative
from services.reward.boxes.thresholds import thresholds
from services.reward.verdict import Context, Verdict, VerifierError
from shared.answers.boxes import read_boxes, truth_boxes
from shared.messages import RewardSpec


def score(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """The verdict on the last answer of `completion`."""
    try:
        truths = truth_boxes(spec.ground_truth, labelled=False)
    except ValueError as error:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} {error}") from None
    if len(truths) != 1:
        raise VerifierError(f"ground truth {spec.ground_truth[:200]!r} holds {len(truths)} boxes; expected one")
    predictions = read_boxes(completion)
    at = thresholds(spec.options, context.progress)
    value = 0.0
    if len(predictions) == 1:
        (box,) = predicted_relative(
            predictions,
            context,
            coordinates=spec.options.get("coordinates", "auto"),
            pixels=spec.params.get("det_verifier_normalized"),
        )
        value = iou(box.corners, truths[0].corners)
    accuracy = value * sum(value >= threshold for threshold in at) / len(at)
    return Verdict(accuracy, tag_format(completion), {"iou": value})
