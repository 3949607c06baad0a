"""Every token weighs a constant that no length changes: Dr. GRPO's."""

import torch
from torch import Tensor

from services.learner.algorithms.tokens import Totals


def weights(lengths: Tensor, totals: Totals) -> Tensor:
    """1/(responses · `sampling.max_new_tokens`), (S,).

    Source: Liu et al. 2025, arXiv:2503.20783, equation 2, section 3.2 and listing 1.
    """
    return torch.full_like(lengths, 1.0 / (totals.sequences * totals.limit), dtype=torch.float32)
