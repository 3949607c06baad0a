"""k3: unbiased and never negative; GRPO's."""

from torch import Tensor

from services.learner.algorithms.tokens import LOG_RATIO_LIMIT


def divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """exp(Δ) − 1 − Δ with Δ = log π_ref − log π_θ, (M,), ≥ 0.

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html; GRPO, arXiv:2402.03300, equation 4.
    """
    apart = (reference - log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return apart.expm1() - apart
