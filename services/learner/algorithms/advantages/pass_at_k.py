"""Pass@k: what a completion adds to the best of k, so that a group is rewarded for one right answer among k."""

from math import comb

import numpy as np

from services.learner.algorithms.group import Floats
from shared.jobs.spec import Algorithm


def advantages(rewards: Floats, settings: Algorithm) -> Floats:
    """n/C(n, k) · Σ over subsets I ∋ i of k of (max over I − max over I without i), (n,), ≥ 0; k at most n.

    With the rewards in rising order that is n/C(n, k) · Σ_{m < i} C(m − 1, k − 2)·(r_i − r_m), m from 1. The factor n
    makes up for the mean over completions that the loss takes. k = 1 has nothing to subtract and is RLOO's: not here.
    Source: Walder and Karkhanis 2025, arXiv:2505.15201, the estimator with the leave-one-out-minus-one baseline.
    """
    n = len(rewards)
    k = min(settings.pass_k, n)
    order = np.argsort(rewards, kind="stable")
    rising = rewards[order]
    ways = np.array([comb(m, k - 2) for m in range(n)], dtype=np.float64)
    found = np.empty(n)
    found[order] = [np.sum(ways[:i] * (rising[i] - rising[:i])) for i in range(n)]
    return found * n / comb(n, k)
