"""IcePop: importance weights within bounds, and no gradient from tokens outside of them."""

import torch
from torch import Tensor

from services.learner.algorithms.tokens import LOG_RATIO_LIMIT, Tokens
from shared.jobs.spec import Algorithm


def correction(tokens: Tokens, settings: Algorithm) -> Tensor:
    """π_old/π_rollout where it is in [floor, cap], else 0; (M,).

    Source: Ling team 2025, "Every Step Evolves" (Ring-1T), arXiv:2510.18855, IcePop; there floor 0.5 and cap 5.
    """
    apart = (tokens.proximal - tokens.rollout).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    inside = (apart >= settings.importance_floor) & (apart <= settings.importance_cap)
    return torch.where(inside, apart, 0.0)
