"""GRPO: how many standard deviations a completion is better than its group."""

from services.learner.algorithms.group import Floats
from shared.jobs.spec import Algorithm

EPSILON = 1e-6
"""Added to the standard deviation (V-Triune, MiniMax-AI/One-RL-to-See-Them-All at 39bcf0d)."""


def advantages(rewards: Floats, settings: Algorithm) -> Floats:
    """(r − mean) / (std + 1e-6) with the unbiased std of n > 1 rewards; (n,).

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2, outcome supervision; ε and the unbiased std as
    in V-Triune. Deviation: V-Triune gives a lone completion mean 0 and std 1, so that its reward is its advantage;
    here it is 0.
    """
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + EPSILON)
