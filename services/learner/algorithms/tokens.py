"""The response tokens of a micro-batch as the algorithms see them.

Letters: M tokens, S responses; the tokens of a response stand together and are all there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to ± this before the exponential (as verl does), so that no ratio overflows."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """`log_probs` (M,) of π_θ, with gradient; `proximal` (M,) of π_old, which the ratio is taken against.

    `rollout` (M,) of the sampler; `advantages` (M,); `lengths` int64 (S,), which sum to M.
    """

    log_probs: Tensor
    proximal: Tensor
    rollout: Tensor
    advantages: Tensor
    lengths: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """log π_θ/π_old, (M,), clamped; gradient through π_θ."""
        return (self.log_probs - self.proximal.detach()).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)

    def sums(self, values: Tensor) -> Tensor:
        """Of each response, (S,)."""
        places = self.spread(torch.arange(len(self.lengths), device=values.device))
        return values.new_zeros(len(self.lengths)).index_add(0, places, values)

    def means(self, values: Tensor) -> Tensor:
        """Of each response, (S,)."""
        return self.sums(values) / self.lengths

    def spread(self, values: Tensor) -> Tensor:
        """(S,) → (M,): a response's value for each of its tokens; with M named, the device is not waited for."""
        return torch.repeat_interleave(values, self.lengths, output_size=len(self.log_probs))


@dataclass(frozen=True)
class Totals:
    """Of a whole update, over micro-batches and ranks: response tokens, responses, and tokens of one at most."""

    tokens: int
    sequences: int
    limit: int
