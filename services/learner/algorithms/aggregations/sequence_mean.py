"""Every response of the update weighs the same, shared by its tokens."""

from torch import Tensor

from services.learner.algorithms.tokens import Totals


def weights(lengths: Tensor, totals: Totals) -> Tensor:
    """1/(responses · own length), (S,).

    Source: GRPO, arXiv:2402.03300, equation 3; GSPO, arXiv:2507.18071, equation 5.
    """
    return 1.0 / (totals.sequences * lengths.float())
