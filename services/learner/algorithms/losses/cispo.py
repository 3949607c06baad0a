"""CISPO: the ratio is a clipped weight without gradient, so that every token keeps its gradient."""

from torch import Tensor

from services.learner.algorithms.tokens import Tokens
from shared.jobs.spec import Algorithm


def loss(tokens: Tokens, settings: Algorithm) -> tuple[Tensor, dict[str, Tensor]]:
    """Per token −sg(clip(r, 1 − low, 1 + high))·A·log π; (M,).

    The paper leaves the lower bound open (low 1 here: r ≥ 0) and tunes the upper one. Sums of `clip_high`, `clip_low`.
    Source: MiniMax-M1, arXiv:2506.13585, its objective.
    """
    ratio = tokens.log_ratio.detach().exp()
    low, high = 1.0 - settings.clip_low, 1.0 + settings.clip_high
    losses = -ratio.clamp(low, high) * tokens.advantages * tokens.log_probs
    return losses, {"clip_high": (ratio > high).sum(), "clip_low": (ratio < low).sum()}
