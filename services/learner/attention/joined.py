"""Flash-attention over a packed row: two calls over segments, joined by their log-sum-exp.

Every prompt and every response attends within itself, causally, in one call; all responses of a prompt attend to it in
another. Nothing is gathered, padded or repeated: spans stand in the row as the kernel reads them, and a prompt's keys
are read once for all its responses. The softmax over both sets of keys has the log-sum-exp of the two calls' own.

Given the joined output O and log-sum-exp L, the kernel's backward pass of either call is exact: it computes
P = exp(S - L) and dS = P * (dO V^T - rowsum(dO * O)), each of whose columns asks for its own keys alone (Ring
Attention: Liu et al. 2023, arXiv:2310.01889; zhuzilin/ring-flash-attention, ring_flash_attn_varlen.py). So no gradient
of a log-sum-exp is needed, which flash-attention's kernels would not take.

Letters: N tokens of the row, H heads, Hkv heads of keys, D size of a head.
"""

from typing import Any

import torch
from torch import Tensor

from services.learner.attention.kernels import Kernel
from services.learner.attention.layout import Layout, Segments


def joined_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float | None, kernel: Kernel
) -> Tensor:
    """`query` (N, H, D), `key` and `value` (N, Hkv, D) of the row → (N, H, D); causal over prompt and response."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    output: Tensor = _Joined.apply(query.contiguous(), key.contiguous(), value.contiguous(), layout, scale, kernel)
    return output


def attention_within(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float | None, kernel: Kernel
) -> Tensor:
    """Shapes as in `joined_attention`; every token sees all of its own segment, later ones, too."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    output: Tensor = _Within.apply(query.contiguous(), key.contiguous(), value.contiguous(), segments, scale, kernel)
    return output


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, kernel: Kernel
    ) -> Tensor:
        first = layout.prompt_tokens
        output, sums = kernel.forward(query, key, value, layout.own, causal=True, scale=scale)
        other, others = kernel.forward(
            query[first:], key[:first], value[:first], layout.cross, causal=False, scale=scale
        )
        total = torch.logaddexp(sums[:, first:], others)
        shares = [(part - total).exp().T.unsqueeze(-1) for part in (sums[:, first:], others)]  # (N - first, H, 1)
        both = shares[0] * output[first:] + shares[1] * other
        output = torch.cat([output[:first], both.to(output.dtype)])
        sums = torch.cat([sums[:, :first], total], dim=1)
        ctx.save_for_backward(query, key, value, output, sums)
        ctx.layout, ctx.scale, ctx.kernel = layout, scale, kernel
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, sums = ctx.saved_tensors
        gradient, layout, first = gradients[0].contiguous(), ctx.layout, ctx.layout.prompt_tokens
        own = ctx.kernel.backward(gradient, query, key, value, output, sums, layout.own, causal=True, scale=ctx.scale)
        cross = ctx.kernel.backward(
            gradient[first:], query[first:], key[:first], value[:first], output[first:],
            sums[:, first:].contiguous(), layout.cross, causal=False, scale=ctx.scale,
        )  # fmt: skip
        found = [part.clone() for part in own]
        found[0][first:] += cross[0]
        found[1][:first] += cross[1]
        found[2][:first] += cross[2]
        return (*found, None, None, None)


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, kernel: Kernel
    ) -> Tensor:
        output, sums = kernel.forward(query, key, value, segments, causal=False, scale=scale)
        ctx.save_for_backward(query, key, value, output, sums)
        ctx.segments, ctx.scale, ctx.kernel = segments, scale, kernel
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0].contiguous()
        found = ctx.kernel.backward(gradient, *ctx.saved_tensors, ctx.segments, causal=False, scale=ctx.scale)
        return (*found, None, None, None)
