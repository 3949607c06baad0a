"""Truncated importance weights, one a token."""

from torch import Tensor

from services.learner.algorithms.tokens import LOG_RATIO_LIMIT, Tokens
from shared.jobs.spec import Algorithm


def correction(tokens: Tokens, settings: Algorithm) -> Tensor:
    """min(π_old/π_rollout, cap), (M,), in (0, cap].

    Source: truncated importance sampling, Ionides 2008; kept apart from the ratio as in AReaL's decoupled objective,
    arXiv:2505.24298. A cap of 2 is verl's default (docs/algo/rollout_corr.md, `rollout_is_threshold`).
    """
    apart = (tokens.proximal - tokens.rollout).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return apart.exp().clamp(max=settings.importance_cap)
