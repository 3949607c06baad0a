"""Attention of one decode step: query heads that share a head of keys are computed as queries of that head.

transformers' own path copies keys and values for every query head, token after token, where a mask hides the padding of
shorter prompts: the whole cache, as often as heads share it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "triune_decode"


def install(model: Any) -> None:
    """Make the language model of `model` use it; prompts are computed as before."""
    AttentionInterface.register(_NAME, decode_attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation({"text_config": _NAME})


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **named: Any,
) -> tuple[Tensor, None]:
    """`query` (R, H, Q, D), `key` and `value` (R, Hkv, K, D) → (R, Q, H, D); a single query sees what is not masked."""
    if query.shape[2] > 1:
        made: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **named
        )
        return made
    together = query[:, :, 0].unflatten(1, (key.shape[1], -1))  # (R, Hkv, H / Hkv, D)
    attend = _by_products if query.device.type == "cpu" and query.dtype == torch.float32 else _by_kernel
    found = attend(together, key, value, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return found.flatten(1, 2)[:, None], None


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def _by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The same written out: torch's kernel for CPUs costs more by the row than so few queries have to compute."""
    scores = torch.matmul(query, key.transpose(-1, -2)).mul_(scale)
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    return torch.matmul(torch.softmax(scores, dim=-1), value)
