"""From which IoU a box counts: dynamic (by training progress), the average over eleven thresholds, or a fixed one."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

from services.reward.verdict import VerifierError

THRESHOLDS: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
"""What `average` averages over (V-Triune's reward server)."""

SCHEDULE: tuple[tuple[float, float], ...] = ((0.10, 0.85), (0.25, 0.95), (1.0, 0.99))
"""Progress up to and including, and the threshold that holds then (V-Triune's paper, section 3.2)."""


def thresholds(options: Mapping[str, object], progress: float) -> tuple[float, ...]:
    """The thresholds to average over, each in [0, 1], at training `progress`: one, unless the mode is `average`.

    `options` may name `iou_threshold` ("dynamic", "average" or a number; absent: dynamic) and `iou_schedule` (pairs of
    progress and threshold). Deviation from V-Triune: any number in [0, 1] is used as it is; there one that is not
    among the eleven silently means `average`. Raises VerifierError at anything else.
    """
    mode = options.get("iou_threshold", "dynamic")
    if mode == "dynamic":
        return (_scheduled(options.get("iou_schedule", SCHEDULE), progress),)
    if mode == "average":
        return THRESHOLDS
    if isinstance(mode, (int, float)) and 0.0 <= mode <= 1.0:
        return (float(mode),)
    raise VerifierError(f"iou_threshold is {mode!r}; expected dynamic, average or a number from 0 to 1")


def _scheduled(schedule: object, progress: float) -> float:
    known = schedule is SCHEDULE
    if not known and not (isinstance(schedule, Sequence) and schedule and all(_is_pair(entry) for entry in schedule)):
        raise VerifierError(f"iou_schedule is {schedule!r}; expected pairs of progress and threshold")
    pairs = cast("Sequence[tuple[float, float]]", schedule)
    return next((float(threshold) for bound, threshold in pairs if progress <= bound), float(pairs[-1][1]))


def _is_pair(entry: object) -> bool:
    return (
        isinstance(entry, (list, tuple))
        and len(entry) == 2
        and all(isinstance(value, (int, float)) and 0.0 <= value <= 1.0 for value in entry)
    )


def parse_threshold(text: str) -> str | float:
    """The mode that a user's `text` names: "dynamic", "average" or a number from 0 to 1; raises ValueError."""
    word = text.strip()
    if word in ("dynamic", "average"):
        return word
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"the IoU threshold is {text!r}; expected dynamic, average or a number from 0 to 1")
    return value
