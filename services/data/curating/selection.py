"""Which rows stay, by how often a model succeeds: thresholds over stored counts, so they change without generating.

Source of the defaults: V-Triune's paper (arXiv 2505.18129, 5.1.1.1): answers that a model gets right every time are
left out (0 <= pass@8 < 100 %); of boxes those stay whose reward, summed over 16 tries, lies between 2 and 10.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from services.data.curating.passes import Passes

BOX_TASKS = ("detection", "grounding")


@dataclass(frozen=True)
class Thresholds:
    """Shares from 0 to 1, both ends included: of right completions for answers, the mean accuracy for boxes."""

    least_pass: float = 0.0
    most_pass: float = 1 - 1e-9
    least_iou: float = 2 / 16
    most_iou: float = 10 / 16


def why_not_kept(one: Passes, at: Thresholds) -> str | None:
    """Too hard, too easy, or not to be judged; None when it stays."""
    if one.void:
        return "could not be judged"
    boxes = one.task in BOX_TASKS
    value = one.accuracy if boxes else one.rate
    least, most = (at.least_iou, at.most_iou) if boxes else (at.least_pass, at.most_pass)
    return "too hard" if value < least else "too easy" if value > most else None


def selected(passes: Sequence[Passes], at: Thresholds, *, easy_first: bool) -> tuple[list[Passes], Counter[str]]:
    """The samples that stay, from easy to hard if wished (stable), and why the others do not."""
    reasons = [(one, why_not_kept(one, at)) for one in passes]
    kept = [one for one, reason in reasons if reason is None]
    if easy_first:
        kept.sort(key=lambda one: -(one.accuracy if one.task in BOX_TASKS else one.rate))
    return kept, Counter(reason for _, reason in reasons if reason is not None)
