"""When a job is given up because nothing of it can be trained on, and the sentence that says why."""

from collections import Counter
from collections.abc import Iterable

from services.learner.steps.assembler import Lost
from shared.errors import TriuneError

WINDOWS = 4
"""So many windows of void groups in a row, with nothing to train on between them, fail the job."""
_REASONS = 3
_DETAIL = 160


class NothingUsable(TriuneError):
    """Groups are void one after the other: the job would burn its data for ever."""


def longest_row(*, max_staleness: int, prompts_per_step: int, first_pass: int | None) -> int:
    """How many void groups in a row a job may have.

    4 (η + 1) B; before the first training step also no more than `first_pass`, the groups of one pass over its data.
    """
    row = WINDOWS * (max_staleness + 1) * prompts_per_step
    return row if first_pass is None else min(row, max(first_pass, 1))


def give_up(what: str, lost: Iterable[Lost]) -> NothingUsable:
    """The error that fails the job: `what` has happened, and the most frequent reasons by source."""
    known = list(lost)
    counts = Counter((one.source or "unknown", one.reason) for one in known)
    parts = []
    for (source, reason), number in counts.most_common(_REASONS):
        detail = next(one.detail for one in known if (one.source or "unknown", one.reason) == (source, reason))
        short = detail if len(detail) <= _DETAIL else detail[: _DETAIL - 1] + "…"
        parts.append(f"{source}: {number} {reason}" + (f" ({short})" if short else ""))
    return NothingUsable(f"{what}: {'; '.join(parts)}" if parts else what)
