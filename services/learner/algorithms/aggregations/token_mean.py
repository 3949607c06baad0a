"""Every token of the update weighs the same."""

import torch
from torch import Tensor

from services.learner.algorithms.tokens import Totals


def weights(lengths: Tensor, totals: Totals) -> Tensor:
    """1/(tokens of the update), (S,). Source: DAPO, arXiv:2503.14476, equation 12; V-Triune's `token-mean`."""
    return torch.full_like(lengths, 1.0 / totals.tokens, dtype=torch.float32)
