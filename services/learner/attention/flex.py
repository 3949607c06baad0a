"""FlexAttention over a packed row: who sees whom is a function of two tokens, compiled into the kernel.

For what flash-attention's segments can't say: images whose tokens see each other, and windows that count prompt and
response together. Nothing is gathered, padded or repeated; blocks of the row that see nothing of each other are
skipped.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from services.learner.attention.layout import Layout, Tokens


def flex_packed_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, scale: float | None
) -> Tensor:
    """`query` (1, H, N, D), `key` and `value` (1, Hkv, N, D) → (1, N, H, D), over the last `window` tokens if any."""
    mask = layout.kept(("flex", window), lambda: block_mask(layout.tokens, window))
    return attend(query, key, value, mask, scale).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float | None) -> Tensor:
    """(1, H, N, D) by the compiled kernel: on a GPU only, since it has no gradients on a CPU; never run there yet."""
    shares = query.shape[1] != key.shape[1]
    output: Tensor = _compiled()(query, key, value, block_mask=mask, scale=scale, enable_gqa=shares)
    return output


def block_mask(tokens: Tokens, window: int | None) -> BlockMask:
    """What a row's tokens see, in blocks of 128 by 128 of which the empty and the full ones are known.

    Compiled on a GPU, where it would hold all pairs of tokens at once otherwise.
    """
    length, device = len(tokens.prompt), tokens.prompt.device
    sees = seen_by(tokens, window)

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(query, key)

    return create_block_mask(mask, None, None, length, length, device=device, _compile=device.type == "cuda")


def seen_by(tokens: Tokens, window: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Whether the token at place `query` sees the one at place `key`."""

    def sees(query: Tensor, key: Tensor) -> Tensor:
        distance = tokens.place[query] - tokens.place[key]
        together = tokens.prompt[query] == tokens.prompt[key]
        mine = (tokens.response[key] == -1) | (tokens.response[key] == tokens.response[query])
        seen = together & mine & (distance >= 0)
        seen = seen | ((tokens.image[query] == tokens.image[key]) & (tokens.image[key] >= 0))
        return seen if window is None else seen & (distance < window)

    return sees


@cache
def _compiled() -> Any:
    """Uncompiled, it computes all scores at once; rows of any length share one compilation."""
    return torch.compile(flex_attention, dynamic=True)
