"""Flash-attention over a packed row: two calls over segments, joined by their log-sum-exp.

Every prompt and every response attends within itself, causally, in one call; all responses of a prompt attend to it in
another. Nothing is gathered, padded or repeated: spans stand in the row as the kernel reads them, and a prompt's keys
are read once for all its responses. The softmax over both sets of keys has the log-sum-exp of the two calls' own;
given it, the kernel's backward pass of either call is exact (as in Ring Attention: Liu et al. 2023, arXiv:2310.01889,
and zhuzilin/ring-flash-attention).

Letters: N tokens of the row, H heads, Hkv heads of keys, D size of a head.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from services.learner.attention.layout import Layout, Segments


class Kernel(Protocol):
    """Attention within segments: `query` (Nq, H, D), `key` and `value` (Nk, Hkv, D); float16 or bfloat16 on a GPU."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output (Nq, H, D) and log-sum-exp of the scores float32 (H, Nq)."""
        ...

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, log_sums: Tensor,
        segments: Segments, *, causal: bool, scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Gradients of query, key and value, where `output` and `log_sums` may count more keys than these."""
        ...


class TorchFlash:
    """torch's own flash-attention, the kernels under `torch.nn.attention.varlen`; on CUDA only, never run there yet.

    They take fewer heads of keys than of queries. Another package's kernels, once activated by
    `torch.nn.attention.activate_flash_attention_impl`, stand behind the same two operators.
    """

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        output, log_sums, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, segments.queries, segments.keys, segments.longest_query, segments.longest_key,
            0.0, causal, False, scale=scale,
        )  # fmt: skip
        return output, log_sums

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, log_sums: Tensor,
        segments: Segments, *, causal: bool, scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        state = torch.zeros(2, dtype=torch.uint64, device=query.device)  # of a dropout that is 0
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
            gradient, query, key, value, output, log_sums, segments.queries, segments.keys,
            segments.longest_query, segments.longest_key, 0.0, causal, state, state.new_empty(0), scale=scale,
        )  # fmt: skip
        return found


def joined_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float | None, kernel: Kernel
) -> Tensor:
    """`query` (N, H, D), `key` and `value` (N, Hkv, D) of the row → (N, H, D); causal over prompt and response."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    output: Tensor = _Joined.apply(query.contiguous(), key.contiguous(), value.contiguous(), layout, scale, kernel)
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
