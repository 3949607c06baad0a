"""Advantages of a group's completions, relative to their own group."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-6
"""Added to the standard deviation (V-Triune, MiniMax-AI/One-RL-to-See-Them-All at 39bcf0d)."""

Advantage = Literal["grpo", "dr_grpo"]
Floats = NDArray[np.float64]


def group_advantages(rewards: Floats, valid: NDArray[np.bool_], kind: Advantage) -> Floats:
    """One advantage a completion, float64 (n,); NaN where `valid` is False.

    `rewards` float64 (n,) in [0, 1], `valid` (n,): False for a verifier-error, which is left out before mean and
    standard deviation are taken, so that a failure never looks like a bad answer. A single valid completion has
    nothing to be compared with: its advantage is 0.
    """
    if rewards.shape != valid.shape:
        raise ValueError(f"rewards have shape {rewards.shape} and valid {valid.shape}; expected equal shapes")
    advantages = np.full(rewards.shape, np.nan)
    kept = np.asarray(rewards, dtype=np.float64)[valid]
    differ = len(kept) > 1 and np.ptp(kept) > 0  # else `r − mean` would be rounding noise
    advantages[valid] = _KINDS[kind](kept) if differ else 0.0
    return advantages


def grpo(rewards: Floats) -> Floats:
    """(r − mean) / (std + 1e-6) with the unbiased std of n > 1 rewards; shape (n,).

    Source: Shao et al. 2024, arXiv:2402.03300, outcome supervision; ε and the unbiased std as in V-Triune. Deviation:
    V-Triune gives a lone completion mean 0 and std 1, so that its reward is its advantage; here it is 0.
    """
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + EPSILON)


def dr_grpo(rewards: Floats) -> Floats:
    """r − mean, shape (n,). Source: Liu et al. 2025, arXiv:2503.20783, section 3.2 (the loss stays a token-mean)."""
    return rewards - rewards.mean()


_KINDS: dict[Advantage, Callable[[Floats], Floats]] = {"grpo": grpo, "dr_grpo": dr_grpo}
