"""PPO's clipped surrogate, with a higher upper clip and a bound for negative advantages."""

import torch
from torch import Tensor

from services.learner.algorithms.tokens import Tokens
from shared.jobs.spec import Algorithm


def loss(tokens: Tokens, settings: Algorithm) -> tuple[Tensor, dict[str, Tensor]]:
    """Per token max(−A·r, −A·clip(r, 1 − low, 1 + high)), and for A < 0 at most −A·dual (0: no bound); (M,).

    Sums of `clip_high`, `clip_low`, `clip_dual`. Source: Schulman et al. 2017, arXiv:1707.06347, equation 7;
    clip-higher: Yu et al. 2025, arXiv:2503.14476, equation 8; dual clip: Ye et al. 2020, arXiv:1912.09729.
    """
    advantages, ratio = tokens.advantages, tokens.log_ratio.exp()
    free = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)
    losses = torch.maximum(free, clipped)
    negative = advantages < 0
    dual = torch.zeros_like(negative)
    if settings.dual_clip > 0:
        bound = -advantages * settings.dual_clip
        dual = negative & (losses > bound)
        losses = torch.where(dual, bound, losses)
    hit = clipped > free
    return losses, {
        "clip_high": (hit & ~negative).sum(),
        "clip_low": (hit & negative).sum(),
        "clip_dual": dual.sum(),
    }
