"""Attention over a packed row: every prompt's keys and values are computed once and shared by all its responses.

transformers' models call an attention function by name; the ones here are told the micro-batch's layout through the
model's keyword arguments. All other layers see one row of real tokens: no padding, no repeated prompt.

Letters: N tokens of the row, H heads, D size of a head; a block has R rows, Q queries, K keys (`batch.Block`).
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from services.learner.attention.flex import flex_packed_attention
from services.learner.attention.joined import attention_within, joined_attention
from services.learner.attention.kernels import Kernel, open_kernel
from services.learner.attention.layout import Layout, Segments, Way
from shared.models.family import Family
from shared.models.hf.forward import has_windows

TEXT = "triune_packed"
VISION = "triune_flash_segments"
"""`flash` in the name makes transformers hand over the boundaries of all images in one call, instead of one by one."""
FLASH_HEADS = range(8, 257, 8)
"""Sizes of a head that flash-attention's kernels take."""


@dataclass(frozen=True)
class Chosen:
    """What computes attention: over a packed row of `text`, in the `vision` tower; the `kernel` of what is flash."""

    text: Way
    vision: Literal["sdpa", "flash"]
    kernel: Kernel | None = None

    def __str__(self) -> str:
        """For log and report."""
        flash = "" if self.kernel is None else f"flash ({self.kernel.name})"
        text = f"{flash}, joined by log-sum-exp" if self.text == "flash" else self.text
        return f"{text}; vision {flash if self.vision == 'flash' else self.vision}"


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
    if packed_layout.way == "flex":
        return flex_packed_attention(query, key, value, packed_layout, sliding_window, scaling), None
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]  # (N, H, D)
    if packed_layout.way == "flash":
        assert packed_layout.kernel is not None
        return joined_attention(rows[0], rows[1], rows[2], packed_layout, scaling, packed_layout.kernel)[None], None
    return _over_blocks(packed_layout, packed_layout.masks(sliding_window), rows, scaling)[None], None


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
        output = output.index_copy(0, places, made.transpose(1, 2).flatten(0, 1).to(output.dtype))
    return output.unsqueeze(0), None


def flash_segment_attention(
    kernel: Kernel,
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
    """`segment_attention` by flash-attention's `kernel`, in one call; never run on a GPU yet."""
    query, key, value = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
    return attention_within(query, key, value, Segments.at(cu_seq_lens_q), scaling, kernel)[None], None


def _over_blocks(
    layout: Layout, masks: Sequence[Tensor | None], states: Sequence[Tensor], scaling: float | None
) -> Tensor:
    query, key, value = states
    if repeats_heads(query.device):
        key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for part in (key, value))
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
    return torch.cat(outputs).to(states[0].dtype).index_select(0, layout.restore)


def repeats_heads(device: torch.device) -> bool:
    """Whether shared key heads are copied for each query head: CUDA's fast kernels take no mask with shared ones."""
    return device.type == "cuda"


def _rows(states: Tensor, places: Tensor, rows: int) -> Tensor:
    """(N, H, D) gathered to (rows, H, length, D).

    On a CPU bfloat16 becomes float32: torch's backward pass there takes up to nine times as long in bfloat16.
    """
    found = states.index_select(0, places).unflatten(0, (rows, -1)).transpose(1, 2)
    return found.float() if found.device.type == "cpu" and found.dtype == torch.bfloat16 else found


def _no_mask(*_: Any, **__: Any) -> None:
    return None


@dataclass(frozen=True)
class Gpu:
    """What of a GPU decides: the flash-attention that runs on it (None: none)."""

    kernel: Kernel | None

    @classmethod
    def of(cls, device: torch.device) -> "Gpu | None":
        """None for a device that is none."""
        return cls(open_kernel(torch.cuda.get_device_capability(device))) if device.type == "cuda" else None

    def runs_flash(self, head: int) -> bool:
        """Whether flash-attention's kernels take heads of `head` numbers here."""
        return self.kernel is not None and head in FLASH_HEADS


def install(model: Any, family: Family) -> Chosen:
    """Make a transformers model use packed attention, in the way that its device, type and family allow."""
    chosen = choose(model.config, family, model.dtype, Gpu.of(model.device))
    AttentionInterface.register(TEXT, packed_attention)
    AttentionMaskInterface.register(TEXT, _no_mask)
    AttentionInterface.register(VISION, segment_attention)
    if chosen.vision == "flash" and chosen.kernel is not None:
        AttentionInterface.register(VISION, functools.partial(flash_segment_attention, chosen.kernel))
    model.set_attn_implementation({"text_config": TEXT})
    if family.tower_takes_segments:
        # Not by set_attn_implementation, which would look for a kernel of that name on the hub.
        model.get_encoder(modality="image").config._attn_implementation = VISION
    if family.recurrent:
        from services.learner.attention.recurrent import fork_states

        fork_states(model)
    return chosen


def choose(config: Any, family: Family, dtype: torch.dtype, gpu: Gpu | None) -> Chosen:
    """Flash-attention on a GPU, FlexAttention where segments can't say who sees whom or flash does not run.

    Never for float32, which flash-attention's kernels refuse.
    """
    if gpu is None or dtype == torch.float32:
        return Chosen("sdpa", "sdpa")
    text, vision = config.get_text_config(), config.vision_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    by_segments = not family.two_way_images and not has_windows(config)
    in_text = by_segments and gpu.runs_flash(int(head))
    in_tower = family.tower_takes_segments and gpu.runs_flash(_width(vision) // vision.num_heads)
    return Chosen(
        "flash" if in_text else "flex", "flash" if in_tower else "sdpa", gpu.kernel if in_text or in_tower else None
    )


def _width(vision: Any) -> int:
    """Channels of a tower: Qwen2-VL calls them `embed_dim`, and what leaves it `hidden_size`."""
    return int(getattr(vision, "embed_dim", None) or vision.hidden_size)
