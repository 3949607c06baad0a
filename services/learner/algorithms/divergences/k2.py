"""k2: half the squared log-ratio; V-Triune's `mse`."""

from torch import Tensor


def divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """(log π_θ − log π_ref)²/2, (M,), ≥ 0; its gradient is that of the divergence.

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html.
    """
    return 0.5 * (log_probs - reference).square()
