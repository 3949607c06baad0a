"""Keys and values of a batch of rows that share their groups' prompts: prefilled once, expanded, then grown."""

import torch
from torch import Tensor

_FIRST_ROOM = 64
"""Tokens of a completion for which there is room before the buffers grow for the first time."""


class GrowingCache:
    """The `past_key_values` of a decode loop: buffers with room to grow, written in place, rows dropped when done.

    Stands in for transformers' caches: attention layers call `update`, and what makes masks the `get_` methods.
    Buffers are (rows, KV heads, room, head dimension) a layer, zero where nothing was written (a masked position must
    not hold NaN).
    """

    def __init__(self, prefixes: list[list[tuple[Tensor, Tensor]]], repeats: list[Tensor], limit: int) -> None:
        """From `prefixes[chunk][layer]` (keys, values), left-padded (groups, heads, P, d), row r of which appears
        `repeats[chunk][r]` times; at most `limit` tokens follow.
        """
        self.length = max(layers[0][0].shape[2] for layers in prefixes)
        self._room = self.length + min(limit, _FIRST_ROOM)
        self._limit = self.length + limit
        self._keys, self._values = (
            [self._expand([chunk[layer][part] for chunk in prefixes], repeats) for layer in range(len(prefixes[0]))]
            for part in (0, 1)
        )

    def _expand(self, chunks: list[Tensor], repeats: list[Tensor]) -> Tensor:
        rows = sum(int(times.sum()) for times in repeats)
        _, heads, _, dim = chunks[0].shape
        buffer = chunks[0].new_zeros(rows, heads, self._room, dim)
        start = 0
        for chunk, times in zip(chunks, repeats, strict=True):
            expanded = chunk.repeat_interleave(times, dim=0)
            end = start + len(expanded)
            buffer[start:end, :, self.length - chunk.shape[2] : self.length] = expanded
            start = end
        return buffer

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Store one new position of `layer`; returns all keys and values of it so far."""
        end = self.length + 1
        self._keys[layer][:, :, self.length : end] = keys
        self._values[layer][:, :, self.length : end] = values
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def advance(self) -> None:
        """All layers have stored their position: the next `update` writes the following one."""
        self.length += 1
        if self.length == self._room < self._limit:
            grown = min(self._limit, self._room + self._room // 2 + 1)
            self._keys = [_grow(buffer, grown) for buffer in self._keys]
            self._values = [_grow(buffer, grown) for buffer in self._values]
            self._room = grown

    def keep(self, index: Tensor) -> None:
        """Drop all rows but those in `index`, which become rows 0, 1, …"""
        self._keys = [buffer[index] for buffer in self._keys]
        self._values = [buffer[index] for buffer in self._values]

    is_compileable = False

    def get_seq_length(self, *_: object) -> int:
        """Positions stored so far, the padding of prompts included."""
        return self.length

    def get_query_offset(self, *_: object) -> int:
        """Where the next position is stored."""
        return self.length

    def get_mask_sizes(self, query_length: int, *_: object) -> tuple[int, int]:
        """How many keys a mask has after `query_length` more positions, and where they begin."""
        return self.length + query_length, 0


def _grow(buffer: Tensor, room: int) -> Tensor:
    return torch.nn.functional.pad(buffer, (0, 0, 0, room - buffer.shape[2]))
