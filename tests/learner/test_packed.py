"""Attention by blocks and segments against one attention with an explicit mask."""

import pytest
import torch
import torch.nn.functional as F

from services.learner.attention import packed as attention
from services.learner.attention.layout import BlockTensors
from services.learner.attention.packed import segment_attention


def test_segments_of_one_length_are_one_call_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight images whose windows are of four sizes: four calls, not one for every run of equal windows."""
    lengths = [64, 64, 16, 64, 64, 16, 48, 48, 12] * 8
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    query, key, value = (
        torch.randn(1, 2, sum(lengths), 8, generator=torch.Generator().manual_seed(i)) for i in (1, 2, 3)
    )
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=number[:, None] == number[None, :])
    calls, whole = [], F.scaled_dot_product_attention
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or whole(*a, **k))
    made, _ = segment_attention(torch.nn.Module(), query, key, value, None, cu_seq_lens_q=bounds)
    torch.testing.assert_close(made, expected.transpose(1, 2), atol=1e-5, rtol=0)
    assert len(calls) == 4


def test_on_a_cpu_bfloat16_is_attended_to_in_float32_and_rounded_once() -> None:
    """Output and gradients are float32's of the same numbers, rounded: both segments, of lengths 5 and 3."""
    bounds = torch.tensor([0, 5, 8])
    wide = [torch.randn(1, 2, 8, 4, generator=torch.Generator().manual_seed(i)).bfloat16().float() for i in (1, 2, 3)]
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        states = [part.to(dtype).requires_grad_() for part in wide]
        made, _ = segment_attention(torch.nn.Module(), *states, None, cu_seq_lens_q=bounds)
        made.float().square().sum().backward()
        found.append([made, *(part.grad for part in states)])
    assert {tensor.dtype for tensor in found[0]} == {torch.bfloat16}
    assert torch.equal(found[0][0], found[1][0].bfloat16())
    for rounded, exact in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(rounded.float(), exact, atol=0.02, rtol=0.02)


def block(context: list[int], keys: int, queries: int, images: list[list[int]] | None = None) -> BlockTensors:
    rows = len(context)
    padded = any(real != keys - queries for real in context)
    return BlockTensors(
        rows,
        torch.zeros(rows * queries, dtype=torch.int64),
        torch.zeros(rows * keys, dtype=torch.int64),
        torch.tensor(context),
        padded,
        torch.ones(rows, queries, dtype=torch.bool),
        torch.arange(rows),
        torch.tensor(images) if images else None,
    )


def test_a_window_counts_the_tokens_of_prompt_and_response() -> None:
    """Two queries after a prompt of three tokens, window 3: the first sees prompt tokens 2 and 3, the second only 3."""
    mask = block([3], keys=5, queries=2).mask(3)
    assert mask is not None and mask[0, 0].int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]


def test_a_shorter_context_is_hidden_on_its_left() -> None:
    mask = block([3, 1], keys=5, queries=2).mask(None)
    assert mask is not None
    assert mask[:, 0].int().tolist() == [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]]


def test_the_tokens_of_one_image_see_each_other_within_the_window() -> None:
    """Text, an image of two tokens, one of a single token (Gemma 3)."""
    one = block([0], keys=4, queries=4, images=[[-1, 1, 1, 2]])
    full, local = one.mask(None), one.mask(2)
    assert full is not None and full[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert local is not None and local[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_plain_causal_attention_needs_no_mask() -> None:
    assert block([0], keys=4, queries=4).mask(None) is None
    assert block([0], keys=4, queries=4).mask(4) is None
