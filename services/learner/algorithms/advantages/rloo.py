"""RLOO: how much a completion is better than the mean of the others of its group."""

from services.learner.algorithms.group import Floats
from shared.jobs.spec import Algorithm


def advantages(rewards: Floats, settings: Algorithm) -> Floats:
    """r_i − mean of the n − 1 others = (r_i − mean)·n/(n − 1), (n,), n > 1.

    Source: Ahmadian et al. 2024, arXiv:2402.14740, its leave-one-out estimator (Kool et al. 2019).
    """
    return (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)
