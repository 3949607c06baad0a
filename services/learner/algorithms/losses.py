"""The clipped policy loss, one value a token, and the measures that tell how far the policies are apart.

Letters: M response tokens of a micro-batch. Sums are returned, never means: the caller divides by the tokens of the
whole update, so that the loss does not depend on how an update is cut into micro-batches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.jobs.spec import Algorithm

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to ± this before the exponential (as verl does), so that no ratio overflows."""


@dataclass(frozen=True)
class Clip:
    """Bounds of the ratio π_θ/π_old: 1 − low, 1 + high, and `dual` for negative advantages (0: off)."""

    low: float
    high: float
    dual: float

    @classmethod
    def of(cls, algorithm: Algorithm) -> "Clip":
        return cls(algorithm.clip_low, algorithm.clip_high, algorithm.dual_clip)


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: Clip, weights: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the tokens' losses (a scalar with gradient) and sums of `clip_high`, `clip_low`, `clip_dual`, `ppo_kl`.

    All inputs (M,); gradient flows through `log_probs` alone. Per token max(−A·r, −A·clip(r, 1 − low, 1 + high)), and
    for A < 0 at most −A·dual, times the importance `weights`.
    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7; clip-higher: Yu et al. 2025, arXiv:2503.14476,
    equation 10; dual clip: Ye et al. 2020, arXiv:1912.09729, equation 5.
    Deviation: V-Triune averages over the tokens of each micro-batch and then over micro-batches, which weighs a token
    by the length of its neighbours; here the caller divides by all tokens of the update.
    """
    log_ratio = (log_probs - old_log_probs.detach()).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = log_ratio.exp()
    free = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip.low, 1.0 + clip.high)
    losses = torch.maximum(free, clipped)
    negative = advantages < 0
    dual = torch.zeros_like(negative)
    if clip.dual > 0:
        bound = -advantages * clip.dual
        dual = negative & (losses > bound)
        losses = torch.where(dual, bound, losses)
    if weights is not None:
        losses = losses * weights.detach()
    hit = clipped > free
    sums = {
        "clip_high": (hit & ~negative).sum(),
        "clip_low": (hit & negative).sum(),
        "clip_dual": dual.sum(),
        "ppo_kl": -log_ratio.detach().sum(),
    }
    return losses.sum(), sums


def importance_weights(old_log_probs: Tensor, rollout_log_probs: Tensor, cap: float) -> Tensor:
    """min(π_old/π_rollout, cap), (M,), without gradient.

    They correct for the sampler being another policy (older weights, other kernels) than the one the ratio is taken
    against. Source: truncated importance sampling, Ionides 2008; kept apart from the ratio as in AReaL's decoupled
    objective, arXiv:2505.24298, equation 5.
    """
    difference = (old_log_probs - rollout_log_probs).detach()
    return difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().clamp(max=cap)


def mismatch(log_probs: Tensor, rollout_log_probs: Tensor) -> dict[str, Tensor]:
    """Sums over tokens of |Δ| and of k3, and the largest |Δ|, of Δ = log π_learner − log π_rollout; inputs (M,).

    k3 = exp(Δ) − 1 − Δ is the unbiased, non-negative estimator of KL(π_rollout ‖ π_learner) under tokens of the
    rollout (Schulman 2020, http://joschu.net/blog/kl-approx.html).
    """
    delta = (log_probs - rollout_log_probs).detach()
    size = delta.abs()
    bounded = delta.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return {
        "mismatch_abs": size.sum(),
        "mismatch_k3": (bounded.expm1() - bounded).sum(),
        "mismatch_max": size.max() if len(size) else size.new_zeros(()),
    }
