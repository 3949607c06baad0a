"""Attention over a packed row: every prompt's keys and values are computed once and shared by all its responses.

transformers' models call an attention function by name; the one here is told the micro-batch's layout through the
model's keyword arguments. All other layers see one row of real tokens: no padding, no repeated prompt.

Letters: N tokens of the row, H heads, D size of a head; a block has R rows, Q queries, K keys (`batch.Block`).
The CPU path is tested; the CUDA path (`flash_attn`) has never run on a GPU.
"""

import importlib.util
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True, eq=False)
class BlockTensors:
    """`batch.Block` on the device: `query` (R·Q,), `key` (R·K,); `context` (R,) real keys before the queries.

    `images` (R, K) numbers the image of a key where its tokens see each other, None where attention is causal.
    """

    rows: int
    query: Tensor
    key: Tensor
    context: Tensor
    padded: bool
    images: Tensor | None

    def mask(self, window: int | None) -> Tensor | None:
        """(R or 1, 1, Q, K), true where a query sees a key; None where plain causal attention says it all."""
        queries, keys = len(self.query) // self.rows, len(self.key) // self.rows
        if keys == queries and self.images is None and (window is None or window >= keys):
            return None
        column = torch.arange(keys, device=self.query.device)
        distance = column[keys - queries :, None] - column[None, :]  # (Q, K)
        seen = (distance >= 0)[None]
        if self.images is not None:
            seen = seen | ((self.images[:, :, None] == self.images[:, None, :]) & (self.images >= 0)[:, None, :])
        if window is not None:
            seen = seen & (distance < window)
        if self.padded:
            seen = seen & (column >= (keys - queries - self.context)[:, None])[:, None, :]
        return seen[:, None]


@dataclass(frozen=True, eq=False)
class Layout:
    """The attention of one micro-batch; `restore` (N,) takes the blocks' outputs back to the order of the row."""

    blocks: Sequence[BlockTensors]
    restore: Tensor
    _masks: dict[int | None, list[Tensor | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, packed: Packed, device: torch.device, *, two_way_images: bool = False) -> "Layout":
        """`two_way_images`: the tokens of an image see each other, later ones, too."""
        blocks = [_block_tensors(block, device, two_way_images) for block in packed.blocks]
        return cls(blocks, torch.from_numpy(packed.restore).to(device))

    def masks(self, window: int | None) -> list[Tensor | None]:
        """One mask a block for layers that see the last `window` tokens (None: all); made once for all such layers."""
        if window not in self._masks:
            self._masks[window] = [block.mask(window) for block in self.blocks]
        return self._masks[window]


def _block_tensors(block: Block, device: torch.device, two_way_images: bool) -> BlockTensors:
    query, key, context = (
        torch.from_numpy(array).to(device)
        for array in (block.query.clip(0).ravel(), block.key.clip(0).ravel(), block.context)
    )
    images = torch.from_numpy(block.images).to(device) if two_way_images and block.images is not None else None
    return BlockTensors(len(block.query), query, key, context, block.padded_context, images)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_layout: Layout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What the language model calls: `query` (1, H, N, D), `key` and `value` (1, Hkv, N, D) → (1, N, H, D).

    Causal within a prompt, and within prompt and response for every response, over the last `sliding_window` tokens
    where the layer has a window. `module`, the mask and the other arguments belong to transformers' signature.
    """
    query, key = (states.to(value.dtype) for states in (query, key))  # rotary positions may have come in float32
    masks = packed_layout.masks(sliding_window)
    return _over_blocks(packed_layout, masks, query[0], key[0], value[0], scaling), None


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

    `cu_seq_lens_q` (segments + 1,) holds the boundaries. Segments of one length are computed as one batch, wherever
    they stand: a tower's windows differ at the edges of every image.
    """
    bounds = cu_seq_lens_q.tolist()
    starts: defaultdict[int, list[int]] = defaultdict(list)
    for start, end in itertools.pairwise(bounds):
        starts[end - start].append(start)
    output = torch.empty_like(query[0].transpose(0, 1))  # (N, H, D)
    for length, found in starts.items():
        places = (torch.tensor(found)[:, None] + torch.arange(length)).flatten().to(query.device)
        states = [_rows(part[0].transpose(0, 1), places, len(found)) for part in (query, key, value)]
        made = F.scaled_dot_product_attention(states[0], states[1], states[2], scale=scaling)
        output = output.index_copy(0, places, made.transpose(1, 2).flatten(0, 1))
    return output.unsqueeze(0), None


def _over_blocks(
    layout: Layout, masks: Sequence[Tensor | None], query: Tensor, key: Tensor, value: Tensor, scaling: float | None
) -> Tensor:
    query, key, value = (states.transpose(0, 1) for states in (query, key, value))  # (N, H, D)
    if repeats_heads(query.device):
        key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
    outputs = []
    for block, mask in zip(layout.blocks, masks, strict=True):
        output = F.scaled_dot_product_attention(
            _rows(query, block.query, block.rows),
            _rows(key, block.key, block.rows),
            _rows(value, block.key, block.rows),
            attn_mask=mask,
            is_causal=mask is None,
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
    where it can be imported on a GPU, but for float32, which its kernels refuse. Returns
    `sdpa`, or `sdpa, vision flash_attention_2`.
    """
    AttentionInterface.register(TEXT, packed_attention)
    AttentionMaskInterface.register(TEXT, _no_mask)
    AttentionInterface.register(VISION, segment_attention)
    model.set_attn_implementation({"text_config": TEXT})
    if not family.tower_takes_segments:
        return "sdpa"
    if torch.cuda.is_available() and model.dtype != torch.float32 and importlib.util.find_spec("flash_attn"):
        model.set_attn_implementation({"vision_config": "flash_attention_2"})
        return "sdpa, vision flash_attention_2"
    # Not by set_attn_implementation, which would look for a kernel of that name on the hub.
    model.get_encoder(modality="image").config._attn_implementation = VISION
    return "sdpa"
