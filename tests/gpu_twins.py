"""What the kernels of a GPU compute, on the CPU, in float32 and with gradients."""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask

from services.learner.attention.layout import Segments


class FlashTwin:
    """torch's flash-attention for CPUs, one segment at a time; see `services.learner.attention.joined.Kernel`."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        output, sums = torch.empty_like(query), query.new_empty(query.shape[1], len(query), dtype=torch.float32)
        for q, k in _spans(segments):
            one, own = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                _heads(query[q]), *_shared(key[k], value[k], query), is_causal=causal, scale=scale
            )
            output[q], sums[:, q] = one[0].transpose(0, 1), own[0]
        return output, sums

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, log_sums: Tensor,
        segments: Segments, *, causal: bool, scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        found = [torch.zeros_like(each) for each in (query, key, value)]
        for q, k in _spans(segments):
            made = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                _heads(gradient[q]), _heads(query[q]), *_shared(key[k], value[k], query), _heads(output[q]),
                log_sums[None, :, q].contiguous(), 0.0, causal, scale=scale,
            )  # fmt: skip
            for total, place, part in zip(found, (q, k, k), made, strict=True):
                heads = part[0].transpose(0, 1)  # (length, H, D): heads that share keys add up
                total[place] += heads.unflatten(1, (total.shape[1], -1)).sum(2)
        return found[0], found[1], found[2]


def dense_attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float | None) -> Tensor:
    """`services.learner.attention.flex.attend` over all pairs of tokens that `mask` lets see each other."""
    length = query.shape[2]
    seen = create_mask(mask.mask_mod, None, None, length, length, device=query.device)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale, enable_gqa=True)


def _spans(segments: Segments) -> Iterator[tuple[slice, slice]]:
    pairs = [itertools.pairwise(bounds.tolist()) for bounds in (segments.queries, segments.keys)]
    for query, key in zip(*pairs, strict=True):
        yield slice(*query), slice(*key)


def _heads(states: Tensor) -> Tensor:
    """(length, H, D) as (1, H, length, D)."""
    return states.transpose(0, 1)[None].contiguous()


def _shared(key: Tensor, value: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    times = query.shape[1] // key.shape[1]
    return _heads(key.repeat_interleave(times, dim=1)), _heads(value.repeat_interleave(times, dim=1))
