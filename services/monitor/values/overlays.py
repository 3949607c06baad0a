"""Boxes of an answer or a ground truth as fractions of the image, so that anyone can draw them on it.

Ground truths are written in thousandths of the image (V-Triune's data). Predictions are in the job's convention
(`reward.coordinates`): thousandths, x or y first, pixels of the image as the model saw it, or pixels of the stored
image; with `auto`, as the model's family writes them, and where that is not known, a sample with
`det_verifier_normalized` has pixels of the image as the model saw it, any other thousandths.
"""

import math
from collections.abc import Iterator
from typing import Any

from shared.messages import Completed
from shared.samples.boxes import Box, parse_boxes

THOUSANDTHS = (1000.0, 1000.0)
BOX_VERIFIERS = ("detection", "iou")


def true_boxes(group: Completed) -> list[dict[str, Any]]:
    """The boxes of the ground truth; none for a verifier that does not judge boxes."""
    spec = group.prompt.reward
    if spec.verifier not in BOX_VERIFIERS:
        return []
    return list(_fractions(parse_boxes(spec.ground_truth) or [], THOUSANDTHS))


def predicted_boxes(group: Completed, text: str) -> list[dict[str, Any]]:
    """The boxes that `text` names, read as the verifier reads them."""
    if group.prompt.reward.verifier not in BOX_VERIFIERS:
        return []
    boxes, convention = parse_boxes(text) or [], _convention(group)
    if convention == "relative_yx":
        boxes = [Box((x1, y1, x2, y2), label) for (y1, x1, y2, x2), label in boxes]
    return list(_fractions(boxes, _unit(group, convention)))


def _convention(group: Completed) -> object:
    spec = group.prompt.reward
    asked = spec.options.get("coordinates", "auto")
    by_sample = "resized" if spec.params.get("det_verifier_normalized") else "relative"
    return (group.box_convention or by_sample) if asked == "auto" else asked


def _unit(group: Completed, convention: object) -> tuple[float, float]:
    """Width and height of the whole image in the unit of the predictions."""
    if convention == "resized" and group.image_grid_thw:
        _, height, width = group.image_grid_thw[0]
        return float(width * group.patch_size), float(height * group.patch_size)
    if convention == "original" and group.prompt.images:
        return float(group.prompt.images[0].width), float(group.prompt.images[0].height)
    return THOUSANDTHS


def _fractions(boxes: list[Box], unit: tuple[float, float]) -> Iterator[dict[str, Any]]:
    width, height = unit
    for corners, label in boxes:
        x1, y1, x2, y2 = corners
        place = {"x1": x1 / width, "y1": y1 / height, "x2": x2 / width, "y2": y2 / height}
        if all(math.isfinite(value) for value in place.values()):
            yield {**place, "label": label}
