"""What the kernels of a GPU compute, on the CPU, in float32 and with gradients."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask

from services.learner.attention.layout import Segments


class FlashTwin:
    """torch's flash-attention for CPUs, one segment at a time; see `services.learner.attention.kernels.Kernel`."""

    name = "twin"

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


class FlashAttnTwin:
    """The module `flash_attn.flash_attn_interface` of flash-attn 2.8.3 on the CPU: its two calls that are used.

    Parameters in the package's order, with its defaults; what its C++ checks of tensors (csrc/flash_attn/flash_api.cpp,
    `mha_varlen_fwd` and `mha_varlen_bwd`) is checked here, but for the device and, so that numbers can be compared, the
    type. As there, the log-sum-exp has no gradient.
    """

    def flash_attn_varlen_func(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
        max_seqlen_k: int, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
        window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, alibi_slopes: Tensor | None = None,
        deterministic: bool = False, return_attn_probs: bool = False, block_table: Tensor | None = None,
    ) -> Any:  # fmt: skip
        assert (dropout_p, window_size, softcap, alibi_slopes, block_table) == (0.0, (-1, -1), 0.0, None, None)
        assert not torch.is_grad_enabled()  # inside an autograd function: its own backward pass would be wrong
        segments = _checked(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
        output, sums = FlashTwin().forward(q, k, v, segments, causal=causal, scale=scale)
        return (output, sums, None) if return_attn_probs else output

    def _flash_attn_varlen_backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, softmax_lse: Tensor, dq: Tensor | None,
        dk: Tensor | None, dv: Tensor | None, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
        max_seqlen_k: int, dropout_p: float, softmax_scale: float, causal: bool, window_size_left: int,
        window_size_right: int, softcap: float, alibi_slopes: Tensor | None, deterministic: bool,
        rng_state: Tensor | None = None, zero_tensors: bool = False,
    ) -> Tensor:  # fmt: skip
        assert (dropout_p, window_size_left, window_size_right, softcap, alibi_slopes) == (0.0, -1, -1, 0.0, None)
        segments = _checked(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        assert out.shape == dout.shape == q.shape
        assert softmax_lse.shape == (q.shape[1], len(q)) and softmax_lse.is_contiguous()
        found = FlashTwin().backward(dout, q, k, v, out, softmax_lse, segments, causal=causal, scale=softmax_scale)
        for place, made, like in zip((dq, dk, dv), found, (q, k, v), strict=True):
            assert place is not None and place.shape == like.shape and place.dtype == like.dtype
            place.copy_(made)
        return torch.zeros(q.shape[1], len(q))


def _checked(
    q: Tensor, k: Tensor, v: Tensor, queries: Tensor, keys: Tensor, longest_query: int, longest_key: int
) -> Segments:
    heads, of_keys, size = q.shape[1], k.shape[1], q.shape[2]
    assert heads % of_keys == 0 and size % 8 == 0 and size <= 256
    assert k.shape == v.shape == (len(k), of_keys, size)
    for bounds, longest, tokens in ((queries, longest_query, q), (keys, longest_key, k)):
        assert bounds.dtype == torch.int32 and bounds.is_contiguous()
        assert bounds[0] == 0 and bounds[-1] == len(tokens) and int(bounds.diff().max()) <= longest
    assert all(each.stride(-1) == 1 for each in (q, k, v))
    assert longest_query > 1  # see `Segments.of`
    return Segments(queries, keys, longest_query, longest_key)


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
