"""Dr. GRPO: how much a completion is better than its group, whatever the group's spread."""

from services.learner.algorithms.group import Floats
from shared.jobs.spec import Algorithm


def advantages(rewards: Floats, settings: Algorithm) -> Floats:
    """r − mean, (n,), in [−1, 1] for rewards in [0, 1].

    Source: Liu et al. 2025, arXiv:2503.20783, section 3.2; its loss is `aggregation = "constant"`.
    """
    return rewards - rewards.mean()
