"""k1: the log-ratio itself."""

from torch import Tensor


def divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """log π_θ − log π_ref, (M,): unbiased, of either sign. In the loss its gradient has mean 0: it is for the reward.

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html.
    """
    return log_probs - reference
