"""GSPO: one ratio a response, its tokens' geometric mean, clipped as a whole."""

import torch
from torch import Tensor

from services.learner.algorithms.tokens import Tokens
from shared.jobs.spec import Algorithm


def loss(tokens: Tokens, settings: Algorithm) -> tuple[Tensor, dict[str, Tensor]]:
    """Per token max(−A·s, −A·clip(s, 1 − low, 1 + high)), s = exp(mean of the response's log-ratios); (M,).

    The gradient through s reaches all tokens of the response alike. The paper's clips are small: low 3e-4, high 4e-4.
    It averages over sequences: `aggregation = "sequence_mean"`. Sums of `clip_high`, `clip_low`.
    Source: Zheng et al. 2025, arXiv:2507.18071, equation 5 (objective and clips).
    """
    ratio = tokens.spread(tokens.means(tokens.log_ratio).exp())
    free = -tokens.advantages * ratio
    clipped = -tokens.advantages * ratio.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)
    hit, negative = clipped > free, tokens.advantages < 0
    sums = {"clip_high": (hit & ~negative).sum(), "clip_low": (hit & negative).sum()}
    return torch.maximum(free, clipped), sums
