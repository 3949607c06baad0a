"""From a group's verdicts to the advantages of its completions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.learner.algorithms.registry import find
from shared.jobs.spec import Algorithm

Floats = NDArray[np.float64]


def group_advantages(rewards: Floats, valid: NDArray[np.bool_], settings: Algorithm) -> Floats:
    """One advantage a completion, float64 (n,); NaN where `valid` is False.

    `rewards` float64 (n,), `valid` (n,): False for a verifier-error, which is left out before mean and standard
    deviation are taken, so that a failure never looks like a bad answer. A single valid completion has nothing to be
    compared with: its advantage is 0.
    """
    if rewards.shape != valid.shape:
        raise ValueError(f"rewards have shape {rewards.shape} and valid {valid.shape}; expected equal shapes")
    advantages = np.full(rewards.shape, np.nan)
    kept = np.asarray(rewards, dtype=np.float64)[valid]
    differ = len(kept) > 1 and np.ptp(kept) > 0  # else `r − mean` would be rounding noise
    advantages[valid] = find("advantages", settings.advantage)(kept, settings) if differ else 0.0
    return advantages


def shaped(rewards: Floats, lengths: Sequence[int], limit: int, settings: Algorithm) -> Floats:
    """Rewards (n,) less the overlong penalty, which rises from 0 to `overlong_penalty` over the last `overlong_buffer`
    tokens before the `limit`; lengths in tokens.

    Source: DAPO's soft overlong punishment, Yu et al. 2025, arXiv:2503.14476, equation 13. The paper has a buffer of
    4,096 tokens and penalty 1.
    """
    if not settings.overlong_buffer:
        return rewards
    over = (np.asarray(lengths, dtype=np.float64) - (limit - settings.overlong_buffer)) / settings.overlong_buffer
    return rewards - settings.overlong_penalty * over.clip(0.0, 1.0)
