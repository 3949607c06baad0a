"""REINFORCE++ with a baseline: better than the group, in standard deviations of the whole step."""

from collections.abc import Sequence

import numpy as np

from services.learner.algorithms.group import Floats
from shared.jobs.spec import Algorithm

EPSILON = 1e-8


def advantages(rewards: Floats, settings: Algorithm) -> Floats:
    """r − mean of the group, (n,); `over_step` scales it.

    Source: Hu et al. 2025, arXiv:2501.03262, REINFORCE++-baseline.
    """
    return rewards - rewards.mean()


def over_step(groups: Sequence[Floats]) -> list[Floats]:
    """(A − mean) / std over all completions with a verdict (NaN: none) of a step's groups; std is the biased one."""
    known = np.concatenate([one[~np.isnan(one)] for one in groups]) if groups else np.zeros(0)
    if not len(known) or not np.ptp(known) > 0:
        return list(groups)
    return [(one - known.mean()) / (known.std() + EPSILON) for one in groups]
