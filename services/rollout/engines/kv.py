"""What a batch of rows keeps of the tokens before: prompts are prefilled once, expanded to their rows, then grown."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_FIRST_ROOM = 64
"""Tokens of a completion for which there is room before the buffers grow for the first time."""


class KeysValues:
    """A layer that looks back: buffers (rows, KV heads, room, head dimension) with room to grow, written in place.

    Zero where nothing was written (a masked position must not hold NaN).
    """

    def __init__(self, chunks: Sequence[Any], repeats: Sequence[Tensor], length: int, room: int) -> None:
        """From transformers' cache layers of left-padded prompts, `length` the longest."""
        self.keys, self.values = (
            _expanded([getattr(chunk, name) for chunk in chunks], repeats, length, room) for name in ("keys", "values")
        )

    def update(self, keys: Tensor, values: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Store the position before `end`; returns all up to there."""
        self.keys[:, :, end - 1 : end] = keys
        self.values[:, :, end - 1 : end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]

    def grow(self, room: int) -> None:
        self.keys, self.values = (
            torch.nn.functional.pad(buffer, (0, 0, 0, room - buffer.shape[2])) for buffer in (self.keys, self.values)
        )

    def keep(self, index: Tensor, start: int) -> None:
        self.keys, self.values = self.keys[index, :, start:], self.values[index, :, start:]

    def join(self, other: "KeysValues", ends: tuple[int, int], length: int, room: int) -> None:
        """Put the rows of `other` below these; what ended at `ends`, here and there, ends at `length` now."""

        def joined(one: Tensor, two: Tensor) -> Tensor:
            _, heads, _, dim = one.shape
            buffer = one.new_zeros(len(one) + len(two), heads, room, dim)
            for rows, part, end in ((slice(len(one)), one, ends[0]), (slice(len(one), None), two, ends[1])):
                buffer[rows, :, length - end : length] = part[:, :, :end]
            return buffer

        self.keys, self.values = joined(self.keys, other.keys), joined(self.values, other.values)


class States:
    """A layer that carries a state (Gated DeltaNet), in the attributes that transformers' layer reads: the last inputs
    of its convolution (rows, channels, width), written in place, and what it remembers (rows, heads, D, D).
    """

    record_past = False

    def __init__(self, chunks: Sequence[Any], repeats: Sequence[Tensor]) -> None:
        self.conv_states, self.recurrent_states = (
            {0: _repeated([getattr(chunk, name)[0] for chunk in chunks], repeats)}
            for name in ("conv_states", "recurrent_states")
        )

    def keep(self, index: Tensor, start: int) -> None:
        for states in (self.conv_states, self.recurrent_states):
            states[0] = states[0][index]

    def join(self, other: "States") -> None:
        """Put the rows of `other` below these."""
        for states, others in (
            (self.conv_states, other.conv_states),
            (self.recurrent_states, other.recurrent_states),
        ):
            states[0] = torch.cat([states[0], others[0]])


class GrowingCache:
    """The `past_key_values` of a decode loop; rows come and go, and all end at `length`.

    Stands in for transformers' caches: layers call `update` or read their `layers[i]`, what makes masks calls the
    `get_` methods.
    """

    def __init__(self, prefixes: Sequence[Sequence[Any]], repeats: Sequence[Tensor], limit: int) -> None:
        """From `prefixes[chunk][layer]`, transformers' cache layers of left-padded prompts, of which row r appears
        `repeats[chunk][r]` times; at most `limit` tokens follow.
        """
        by_layer = list(zip(*prefixes, strict=True))
        self.length = max(layer.keys.shape[2] for chunks in by_layer for layer in chunks if not _has_states(layer))
        self._room = self.length + min(limit, _FIRST_ROOM)
        self._limit = self.length + limit
        self.layers = [
            States(chunks, repeats) if _has_states(chunks[0]) else KeysValues(chunks, repeats, self.length, self._room)
            for chunks in by_layer
        ]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Store one new position of `layer`; returns all keys and values of it so far."""
        return self._looking(layer).update(keys, values, self.length + 1)

    def _looking(self, layer: int) -> KeysValues:
        found = self.layers[layer]
        assert isinstance(found, KeysValues), layer
        return found

    def has_previous_state(self, layer: int, state_idx: int = 0) -> bool:
        """Prompts have been seen."""
        return isinstance(self.layers[layer], States)

    def update_recurrent_state(self, state: Tensor, layer: int) -> None:
        """Remember `state` of a layer that carries one."""
        found = self.layers[layer]
        assert isinstance(found, States), layer
        found.recurrent_states[0] = state

    def advance(self) -> None:
        """All layers have stored their position: the next `update` writes the following one."""
        self.length += 1
        if self.length == self._room < self._limit:
            self._room = min(self._limit, self._room + self._room // 2 + 1)
            for layer in self.layers:
                if isinstance(layer, KeysValues):
                    layer.grow(self._room)

    def keep(self, index: Tensor, start: int = 0) -> None:
        """Drop all rows but those in `index`, which become rows 0, 1, …, and the first `start` positions of all."""
        self.length, self._room, self._limit = self.length - start, self._room - start, self._limit - start
        for layer in self.layers:
            layer.keep(index, start)

    def join(self, other: "GrowingCache") -> None:
        """Put the rows of `other` below these; the shorter ones are padded on the left."""
        ends = (self.length, other.length)
        left = max(self._limit - self.length, other._limit - other.length)
        self.length = max(ends)
        self._room, self._limit = self.length + min(left, _FIRST_ROOM), self.length + left
        for layer, new in zip(self.layers, other.layers, strict=True):
            if isinstance(layer, KeysValues) and isinstance(new, KeysValues):
                layer.join(new, ends, self.length, self._room)
            elif isinstance(layer, States) and isinstance(new, States):
                layer.join(new)

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


def _has_states(layer: Any) -> bool:
    return hasattr(layer, "recurrent_states")


def _repeated(chunks: Sequence[Tensor], repeats: Sequence[Tensor]) -> Tensor:
    return torch.cat([chunk.repeat_interleave(times, dim=0) for chunk, times in zip(chunks, repeats, strict=True)])


def _expanded(chunks: Sequence[Tensor], repeats: Sequence[Tensor], length: int, room: int) -> Tensor:
    """Each chunk (groups, heads, P, d) in its rows, so that all end at `length`."""
    rows = sum(int(times.sum()) for times in repeats)
    _, heads, _, dim = chunks[0].shape
    buffer = chunks[0].new_zeros(rows, heads, room, dim)
    start = 0
    for chunk, times in zip(chunks, repeats, strict=True):
        end = start + int(times.sum())
        buffer[start:end, :, length - chunk.shape[2] : length] = chunk.repeat_interleave(times, dim=0)
        start = end
    return buffer
