"""SAPO: a sigmoid in place of the clip, so that a far token fades and never drops out."""

import torch
from torch import Tensor

from services.learner.algorithms.tokens import Tokens
from shared.jobs.spec import Algorithm

TAU_POSITIVE, TAU_NEGATIVE = 1.0, 1.05
"""The paper's temperatures: negative advantages fade faster."""


def loss(tokens: Tokens, settings: Algorithm) -> tuple[Tensor, dict[str, Tensor]]:
    """Per token −A·(4/τ)·σ(τ·(r − 1)), τ by the advantage's sign; (M,). Its slope at r = 1 is that of −A·r.

    It averages over sequences: `aggregation = "sequence_mean"`. Source: Gao et al. 2025, arXiv:2511.20347, its
    objective; the same in huggingface/trl, trl/trainer/grpo_trainer.py.
    """
    ratio = tokens.log_ratio.exp()
    tau = torch.where(tokens.advantages > 0, TAU_POSITIVE, TAU_NEGATIVE)
    return -tokens.advantages * 4.0 / tau * torch.sigmoid(tau * (ratio - 1.0)), {}
