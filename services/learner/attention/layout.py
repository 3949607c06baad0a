"""Who sees whom in a packed row, on the device, in the form that each way of computing attention takes.

Letters: N tokens of the row; a block has R rows, Q queries, K keys (`batch.Block`).
"""

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from services.learner.attention.batch import Block, Packed, image_runs

if TYPE_CHECKING:
    from services.learner.attention.kernels import Kernel

Way = Literal["sdpa", "flash", "flex"]
"""Rectangular blocks for `scaled_dot_product_attention`, segments for flash-attention, a mask for FlexAttention."""


@dataclass(frozen=True, eq=False)
class BlockTensors:
    """`batch.Block` on the device: `query` (R·Q,), `key` (R·K,); `context` (R,) real keys before the queries.

    `real` (R, Q) is false in the padding behind a row's end, `prompt` (R,) numbers the prompt that it is, or follows.
    `images` (R, K) numbers the image of a key where its tokens see each other, None where attention is causal.
    """

    rows: int
    query: Tensor
    key: Tensor
    context: Tensor
    padded: bool
    real: Tensor
    prompt: Tensor
    images: Tensor | None

    @classmethod
    def of(cls, block: Block, device: torch.device, two_way_images: bool) -> "BlockTensors":
        query, key, context, real, prompt = (
            torch.from_numpy(array).to(device)
            for array in (
                block.query.clip(0).ravel(),
                block.key.clip(0).ravel(),
                block.context,
                block.query >= 0,
                block.prompt,
            )
        )
        images = torch.from_numpy(block.images).to(device) if two_way_images and block.images is not None else None
        return cls(len(block.query), query, key, context, block.padded_context, real, prompt, images)

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

    def before(self, count: int) -> Tensor:
        """(R, count): the places of the last `count` tokens before each row, -1 where its context has fewer."""
        queries, keys = len(self.query) // self.rows, len(self.key) // self.rows
        context = torch.nn.functional.pad(self.key.view(self.rows, keys)[:, : keys - queries], (count, 0))
        back = torch.arange(count, 0, -1, device=self.key.device)
        return context[:, context.shape[1] - count :].where(back <= self.context[:, None], -1)


@dataclass(frozen=True, eq=False)
class Segments:
    """Which queries see which keys, by neighbouring spans: span i of the queries sees span i of the keys.

    `queries`, `keys` int32 (spans + 1,): where spans begin and end; bounds of the longest span of each.
    """

    queries: Tensor
    keys: Tensor
    longest_query: int
    longest_key: int

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], device: torch.device) -> "Segments":
        """From the spans' lengths.

        Queries are never bound to 1: there flash-attention 2 packs the heads that share keys into the queries (for
        decoding), and gives the log-sum-exp of several spans in another order (flash_api.cpp, `ngroups_swapped`).
        """
        bounds = [torch.tensor([0, *itertools.accumulate(each)], dtype=torch.int32) for each in (queries, keys)]
        return cls(bounds[0].to(device), bounds[1].to(device), max(2, *queries), max(keys))

    @classmethod
    def at(cls, bounds: Tensor) -> "Segments":
        """Each span of `bounds` (spans + 1,) with itself; waits for the device once."""
        bounds = bounds.to(torch.int32)
        longest = max(2, int((bounds[1:] - bounds[:-1]).max()))
        return cls(bounds, bounds, longest, longest)


@dataclass(frozen=True, eq=False)
class Tokens:
    """For every token of the row (N,): the number of its prompt and of its response (-1: it is the prompt's), how
    many tokens stand before it in its own sequence, and the number of its image (-1: none).
    """

    prompt: Tensor
    response: Tensor
    place: Tensor
    image: Tensor


class Layout:
    """The attention of one micro-batch; each form is made when a way of computing first asks for it."""

    def __init__(
        self,
        packed: Packed,
        device: torch.device,
        *,
        way: Way = "sdpa",
        kernel: "Kernel | None" = None,
        two_way_images: bool = False,
    ) -> None:
        """`kernel`: of the way `flash`; `two_way_images`: the tokens of an image see each other, later ones, too."""
        self.way, self.kernel = way, kernel
        self._packed, self._device, self._two_way_images = packed, device, two_way_images
        self._kept: dict[Hashable, Any] = {}

    def kept(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returned for `name` the first time: all layers share it."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    # ---------------------------------------------------------------- blocks

    @cached_property
    def blocks(self) -> list[BlockTensors]:
        return [BlockTensors.of(block, self._device, self._two_way_images) for block in self._packed.blocks]

    @cached_property
    def restore(self) -> Tensor:
        """(N,): takes the blocks' outputs back to the order of the row."""
        return torch.from_numpy(self._packed.restore).to(self._device)

    @property
    def prompt_blocks(self) -> list[BlockTensors]:
        return [block for block in self.blocks if len(block.key) == len(block.query)]

    @property
    def response_blocks(self) -> list[BlockTensors]:
        return [block for block in self.blocks if len(block.key) > len(block.query)]

    def masks(self, window: int | None) -> list[Tensor | None]:
        """One mask a block for layers that see the last `window` tokens (None: all)."""
        made: list[Tensor | None] = self.kept(("blocks", window), lambda: [block.mask(window) for block in self.blocks])
        return made

    # ---------------------------------------------------------------- segments

    @cached_property
    def prompt_tokens(self) -> int:
        """How many tokens of the row are prompts': they come first."""
        return sum(self._prompts)

    @cached_property
    def own(self) -> Segments:
        """Every prompt and every response, each within itself."""
        lengths = [*self._prompts, *itertools.chain(*self._responses)]
        return Segments.of(lengths, lengths, self._device)

    @cached_property
    def cross(self) -> Segments:
        """The responses of a part, which stand together behind all prompts, and their prompt."""
        return Segments.of([sum(lengths) for lengths in self._responses], self._prompts, self._device)

    @cached_property
    def _prompts(self) -> list[int]:
        return [len(part.group.prompt_ids) for part in self._packed.parts]

    @cached_property
    def _responses(self) -> list[list[int]]:
        return [[row.num_seen for row in part.responses] for part in self._packed.parts]

    # ---------------------------------------------------------------- tokens

    @cached_property
    def tokens(self) -> Tokens:
        lengths = list(itertools.chain(*self._responses))
        owners = np.repeat(np.arange(len(self._prompts)), [len(each) for each in self._responses])
        starts = np.asarray(self._prompts)[owners]
        total = len(self._packed.token_ids)
        image = image_runs(self._packed.image_places, total) if self._two_way_images else np.full(total, -1)
        arrays = (
            np.concatenate([np.repeat(np.arange(len(self._prompts)), self._prompts), np.repeat(owners, lengths)]),
            np.concatenate([np.full(self.prompt_tokens, -1), np.repeat(np.arange(len(lengths)), lengths)]),
            np.concatenate(
                [np.arange(length) for length in self._prompts]
                + [start + np.arange(length) for start, length in zip(starts, lengths, strict=True)]
            ),
            image,
        )
        return Tokens(*(torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for array in arrays))
