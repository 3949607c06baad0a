"""Rectangles: intersection over union, and coordinates relative to an image."""

from collections.abc import Sequence

from services.reward.verdict import Context, VerifierError
from shared.samples.boxes import Box

Corners = tuple[float, float, float, float]


def iou(a: Corners, b: Corners) -> float:
    """Intersection over union in [0, 1], symmetric; 0 for boxes that only touch or have no area.

    Coordinates are continuous (no +1); x1 <= x2 and y1 <= y2 is assumed.
    """
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    # Beyond 1e154 the areas overflow, and boxes of 1e-170 have none; neither is a box in an image.
    return shared / union if 0.0 < shared <= union < float("inf") else 0.0


def to_relative(boxes: Sequence[Box], size: tuple[float, float]) -> list[Box]:
    """`boxes` in pixels of an image of `size` (width, height), as whole numbers from 0 to 1000 of its sides.

    Truncated toward zero and never clipped, as in V-Triune. Raises VerifierError for an image without extent or of
    unknown size (NaN), and for coordinates that no whole number holds.
    """
    width, height = size
    try:
        return [
            Box(
                (
                    int(x1 / width * 1000),
                    int(y1 / height * 1000),
                    int(x2 / width * 1000),
                    int(y2 / height * 1000),
                ),
                label,
            )
            for (x1, y1, x2, y2), label in boxes
        ]
    except (ZeroDivisionError, ValueError):
        raise VerifierError(f"the image is {width} x {height} pixels; expected sides above 0") from None
    except OverflowError:
        raise VerifierError("a coordinate of the answer is too large to be a position in an image") from None


def predicted_relative(boxes: Sequence[Box], context: Context, *, coordinates: object, pixels: object) -> Sequence[Box]:
    """Predicted boxes in the unit of the ground truth, 0 to 1000 of the first image's sides.

    `coordinates` says what the model writes: "relative" (0 to 1000 already), "relative_yx" (the same, y first),
    "resized" or "original" (pixels of the image as the model saw it, or as it is stored), or "auto": what the model's
    family writes, and where that is not known what the sample's `det_verifier_normalized` (`pixels`) says, as
    V-Triune does: true = pixels of the resized image where its size is known, false = relative.
    Raises VerifierError for another word and for a size that is missing where it was asked for.
    """
    if coordinates == "auto":
        coordinates = context.convention or ("resized" if pixels else "relative")
        if coordinates == "resized" and not context.resized:
            return boxes
    match coordinates:
        case "relative":
            return boxes
        case "relative_yx":
            return [Box((x1, y1, x2, y2), label) for (y1, x1, y2, x2), label in boxes]
        case "resized" | "original":
            sizes = context.resized if coordinates == "resized" else context.original
            if not sizes:
                raise VerifierError(f"coordinates is {coordinates!r}, but the sample has no {coordinates} image size")
            return to_relative(boxes, sizes[0])
    raise VerifierError(f"coordinates is {coordinates!r}; expected auto, relative, relative_yx, resized or original")
