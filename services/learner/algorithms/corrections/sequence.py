"""Truncated importance weights, one a response: unbiased where the token ones are not, with more variance."""

from torch import Tensor

from services.learner.algorithms.tokens import LOG_RATIO_LIMIT, Tokens
from shared.jobs.spec import Algorithm


def correction(tokens: Tokens, settings: Algorithm) -> Tensor:
    """min(Π π_old/π_rollout over the response, cap) for each of its tokens, (M,), in (0, cap].

    Source: verl, docs/algo/rollout_corr.md, `rollout_is: sequence`, which names caps from 2 to 10.
    """
    apart = tokens.sums(tokens.proximal - tokens.rollout).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return tokens.spread(apart.exp().clamp(max=settings.importance_cap))
