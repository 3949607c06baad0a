"""Responses whose tokens are on the whole too far from the learner's policy are left out."""

from torch import Tensor

from services.learner.algorithms.tokens import LOG_RATIO_LIMIT, Tokens
from shared.jobs.spec import Algorithm


def correction(tokens: Tokens, settings: Algorithm) -> Tensor:
    """1 for the tokens of a response whose geometric mean of π_old/π_rollout is in [floor, cap], else 0; (M,).

    Source: verl, docs/algo/rollout_corr.md, `rollout_rs: geometric`, which names caps from 1.0002 to 1.001 and
    floors that are their reciprocals.
    """
    mean = tokens.means(tokens.proximal - tokens.rollout).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    inside = (mean >= settings.importance_floor) & (mean <= settings.importance_cap)
    return tokens.spread(inside.to(tokens.proximal.dtype))
