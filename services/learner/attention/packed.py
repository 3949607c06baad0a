"""Attention over a packed row: every prompt's keys and values are computed once and shared by all its responses.

transformers' models call an attention function by name; the one here is told the micro-batch's layout through the
model's keyword arguments. All other layers see one row of real tokens: no padding, no repeated prompt.

Letters: N tokens of the row, H heads, D size of a head; a block has R rows, Q queries, K keys (`batch.Block`).
The CPU path is tested; the CUDA path (`flash_attn`) has never run on a GPU.
"""

import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from services.learner.attention.batch import Block, Packed
from shared.models.family import Family

TEXT = "triune_packed"
VISION = "triune_flash_segments"
"""`flash` in the name makes transformers hand over the boundaries of all images in one call, instead of one by one."""


@dataclass(frozen=True)
class BlockTensors:
    """`batch.Block` on the device: `query` (R·Q,), `key` (R·K,), `mask` (R, 1, Q, K) or None where causal says all."""

    rows: int
    query: Tensor
    key: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Layout:
    """The attention of one micro-batch; `restore` (N,) takes the blocks' outputs back to the order of the row."""

    blocks: Sequence[BlockTensors]
    restore: Tensor

    @classmethod
    def of(cls, packed: Packed, device: torch.device) -> "Layout":
        blocks = [_block_tensors(block, device) for block in packed.blocks]
        return cls(blocks, torch.from_numpy(packed.restore).to(device))


def _block_tensors(block: Block, device: torch.device) -> BlockTensors:
    rows, queries = block.query.shape
    keys = block.key.shape[1]
    mask = None
    if keys > queries:
        before = torch.arange(keys)[None, None, :] <= torch.arange(keys - queries, keys)[None, :, None]
        mask = before.unsqueeze(1)
        if block.padded_context:
            hidden = torch.from_numpy(keys - queries - block.context)
            mask = mask & (torch.arange(keys)[None, :] >= hidden[:, None])[:, None, None, :]
        mask = mask.to(device)
    query = torch.from_numpy(block.query.clip(0).ravel()).to(device)
    key = torch.from_numpy(block.key.clip(0).ravel()).to(device)
    return BlockTensors(rows, query, key, mask)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_layout: Layout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What the language model calls: `query` (1, H, N, D), `key` and `value` (1, Hkv, N, D) → (1, N, H, D).

    Causal within a prompt, and within prompt and response for every response. `module`, the mask and the other
    arguments belong to transformers' signature; `packed_layout` says all.
    """
    return _over_blocks(packed_layout, query[0], key[0], value[0], scaling), None


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What the vision tower calls: full attention within each image or window, shapes as in `packed_attention`.

    `cu_seq_lens_q` (segments + 1,) holds the boundaries. Runs of equally long segments are computed as one batch.
    """
    lengths = cu_seq_lens_q.diff().tolist()
    outputs, start = [], 0
    for length, run in itertools.groupby(lengths):
        count = len(list(run))
        end = start + count * length
        states = [part[0, :, start:end].unflatten(1, (count, length)).transpose(0, 1) for part in (query, key, value)]
        output = F.scaled_dot_product_attention(states[0], states[1], states[2], scale=scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        start = end
    return torch.cat(outputs).unsqueeze(0), None


def _over_blocks(layout: Layout, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    query, key, value = (states.transpose(0, 1) for states in (query, key, value))  # (N, H, D)
    if repeats_heads(query.device):
        key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
    outputs = []
    for block in layout.blocks:
        output = F.scaled_dot_product_attention(
            _rows(query, block.query, block.rows),
            _rows(key, block.key, block.rows),
            _rows(value, block.key, block.rows),
            attn_mask=block.mask,
            is_causal=block.mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, layout.restore).unsqueeze(0)


def repeats_heads(device: torch.device) -> bool:
    """Whether shared key heads are copied for each query head: CUDA's fast kernels take no mask with shared ones."""
    return device.type == "cuda"


def _rows(states: Tensor, places: Tensor, rows: int) -> Tensor:
    """(N, H, D) gathered to (rows, H, length, D)."""
    return states.index_select(0, places).unflatten(0, (rows, -1)).transpose(1, 2)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def install(model: Any, family: Family) -> str:
    """Make a transformers model use packed attention, and say what computes attention where.

    The language model's layout needs blocks; the tower's calling convention is flash-attn's own, so that it is taken
    where it can be imported on a GPU. Returns `sdpa`, or `sdpa, vision flash_attention_2`.
    """
    AttentionInterface.register(TEXT, packed_attention)
    AttentionMaskInterface.register(TEXT, _no_mask)
    AttentionInterface.register(VISION, segment_attention)
    model.set_attn_implementation({"text_config": TEXT})
    if not family.tower_takes_segments:
        return "sdpa"
    if torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None:
        model.set_attn_implementation({"vision_config": "flash_attention_2"})
        return "sdpa, vision flash_attention_2"
    # Not by set_attn_implementation, which would look for a kernel of that name on the hub.
    model.get_encoder(modality="image").config._attn_implementation = VISION
    return "sdpa"
