"""Attention of a decode step against the library's, which repeats keys and values."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from services.rollout.engines.attention import decode_attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_a_decode_step_is_the_librarys_attention(queries: int, masked: bool, dtype: torch.dtype) -> None:
    """Written out in float32, by torch's kernel in bfloat16.

    Three rows, six query heads over two of keys, seven keys of which the rows hide 0, 2 and 5 on the left.
    """
    random = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(3, heads, length, 8, generator=random).to(dtype) for heads, length in ((6, queries), (2, 7), (2, 7))
    )
    mask = None
    if masked:
        mask = (torch.arange(7) >= torch.tensor([0, 2, 5])[:, None])[:, None, None, :].expand(-1, 1, queries, -1)
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    made, _ = decode_attention(module, query, key, value, mask, scaling=0.4)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.4)
    assert made.shape == (3, queries, 6, 8)
    torch.testing.assert_close(made, expected, **({"atol": 1e-6, "rtol": 1e-5} if dtype == torch.float32 else {}))


@pytest.mark.parametrize(
    ("dtype", "module", "name"),
    [(torch.float32, torch, "matmul"), (torch.bfloat16, torch.nn.functional, "scaled_dot_product_attention")],
)
def test_keys_are_not_copied_for_the_heads_that_share_them(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, module: Any, name: str
) -> None:
    seen, whole = [], getattr(module, name)

    def look(query: torch.Tensor, key: torch.Tensor, *more: torch.Tensor, **named: object) -> torch.Tensor:
        seen.append((key.data_ptr(), tuple(query.shape)))
        return whole(query, key, *more, **named)

    monkeypatch.setattr(module, name, look)
    key = torch.randn(2, 2, 5, 8, dtype=dtype)
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    decode_attention(SimpleNamespace(), torch.randn(2, 6, 1, 8, dtype=dtype), key, key, mask)
    assert seen[0] == (key.data_ptr(), (2, 2, 3, 8))
