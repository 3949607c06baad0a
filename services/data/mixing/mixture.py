"""The job's order: ordinal → row, a pure function of (seed, sizes, weights and the ordinals at which they changed).

Two orders are nested, both without replacement:

- In an epoch of the mixture a source of n rows and weight w stands round(w·n) times; the places are shuffled. With all
  weights 1 an epoch visits every row exactly once, uniformly mixed (V-Triune, section 5.1.1).
- Within a source, pass after pass, row groups come in shuffled order; consecutive ones are joined until they hold
  `SHUFFLE_ROWS` rows and shuffled together. Full shuffling would read a row group for every single row; this reads each
  once a pass, and two rows far apart in a file still meet only if their groups are drawn together.

A change of weights starts a new mixture epoch; every source goes on where it was, so no row is skipped or repeated
within its pass. Nothing here depends on where one starts. Memory: two bytes a row of an epoch, for the places.

Shuffles sort the raw output of PCG64, which numpy promises never to change.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from math import ceil

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadData

SHUFFLE_ROWS = 1024
"""Rows of consecutive (shuffled) row groups that are shuffled together."""


def shuffled(count: int, *key: object) -> NDArray[np.int64]:
    """A permutation of range(count) that depends on `key` alone."""
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    raw = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(count)
    return np.argsort(raw, kind="stable")


class SourceOrder:
    """The endless order of one source's rows; `segments` are the rows of its row groups."""

    def __init__(self, seed: int, source: str, segments: Sequence[int]) -> None:
        self.size = sum(segments)
        self._key = (seed, source)
        self._segments = tuple(segments)
        self._blocks = lru_cache(maxsize=2)(self._make_blocks)
        self._block_order = lru_cache(maxsize=4)(self._make_block_order)

    def at(self, position: int) -> tuple[int, int]:
        """(segment, row in the segment) of the row at `position`, counted over all passes."""
        pass_, offset = divmod(position, self.size)
        starts, _ = self._blocks(pass_)
        block = bisect_right(starts, offset) - 1
        segments, rows = self._block_order(pass_, block)
        return int(segments[offset - starts[block]]), int(rows[offset - starts[block]])

    def _make_blocks(self, pass_: int) -> tuple[list[int], list[list[int]]]:
        """First offset and segments of every block of a pass."""
        starts: list[int] = []
        blocks: list[list[int]] = []
        filled, total = SHUFFLE_ROWS, 0
        for segment in shuffled(len(self._segments), *self._key, "groups", pass_).tolist():
            if filled >= SHUFFLE_ROWS:
                starts.append(total)
                blocks.append([])
                filled = 0
            blocks[-1].append(segment)
            filled += self._segments[segment]
            total += self._segments[segment]
        return starts, blocks

    def _make_block_order(self, pass_: int, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        segments = self._blocks(pass_)[1][block]
        counts = [self._segments[segment] for segment in segments]
        order = shuffled(sum(counts), *self._key, "rows", pass_, block)
        owner = np.repeat(segments, counts)
        row = np.concatenate([np.arange(count) for count in counts])
        return owner[order], row[order]


@dataclass(frozen=True)
class Weights:
    """Weights by source that hold from ordinal `since` on; a source that is not named has weight 1."""

    since: int
    by_source: Mapping[str, float]


@dataclass(frozen=True)
class Pick:
    """The row at an ordinal: a source, its segment (row group), and the row in it."""

    source: str
    segment: int
    row: int


@dataclass(frozen=True)
class _Phase:
    """A stretch of ordinals under one set of weights. `quotas` rows of each source make an epoch of `length`."""

    since: int
    quotas: tuple[int, ...]
    length: int
    base: tuple[int, ...]  # position of each source at `since`


class Mixture:
    """The order of a job over its sources; `segments` are the rows of each source's row groups.

    `weights` in order of their ordinals, the first one from ordinal 0. Raises BadData when nothing has a weight.
    """

    def __init__(self, seed: int, segments: Mapping[str, Sequence[int]], weights: Sequence[Weights]) -> None:
        self._seed = seed
        self._names = sorted(segments)
        self._orders = [SourceOrder(seed, name, segments[name]) for name in self._names]
        self._places = lru_cache(maxsize=2)(self._make_places)
        self._phases: list[_Phase] = []
        for change in weights:
            base = self._positions(change.since) if self._phases else (0,) * len(self._names)
            self._phases.append(self._phase(change, base))

    def at(self, ordinal: int) -> Pick:
        """The row at `ordinal` (at least 0)."""
        index = self._phase_index(ordinal)
        phase = self._phases[index]
        epoch, offset = divmod(ordinal - phase.since, phase.length)
        places = self._places(index, epoch)
        source = int(places[offset])
        before = int(np.count_nonzero(places[:offset] == source))
        segment, row = self._orders[source].at(phase.base[source] + epoch * phase.quotas[source] + before)
        return Pick(self._names[source], segment, row)

    def total(self, epochs: int) -> int:
        """How many ordinals `epochs` passes over the mixture have; an epoch cut short by a change counts in part."""
        done = Fraction(0)
        for phase, after in zip(self._phases, self._phases[1:], strict=False):
            part = Fraction(after.since - phase.since, phase.length)
            if done + part >= epochs:
                return phase.since + ceil((epochs - done) * phase.length)
            done += part
        last = self._phases[-1]
        return last.since + ceil((epochs - done) * last.length)

    def _phase(self, change: Weights, base: tuple[int, ...]) -> _Phase:
        quotas = tuple(
            _quota(order.size, change.by_source.get(name, 1.0))
            for name, order in zip(self._names, self._orders, strict=True)
        )
        if not sum(quotas):
            raise BadData(f"every source has weight 0: {', '.join(self._names)}; at least one must be drawn from")
        return _Phase(change.since, quotas, sum(quotas), base)

    def _positions(self, ordinal: int) -> tuple[int, ...]:
        """How many rows of each source stand before `ordinal`."""
        index = self._phase_index(ordinal)
        phase = self._phases[index]
        epoch, offset = divmod(ordinal - phase.since, phase.length)
        counts = np.bincount(self._places(index, epoch)[:offset], minlength=len(self._names))
        return tuple(
            base + epoch * quota + int(count)
            for base, quota, count in zip(phase.base, phase.quotas, counts, strict=True)
        )

    def _phase_index(self, ordinal: int) -> int:
        return bisect_right([phase.since for phase in self._phases], ordinal) - 1

    def _make_places(self, index: int, epoch: int) -> NDArray[np.uint16]:
        """The source at every place of an epoch."""
        phase = self._phases[index]
        sources = np.repeat(np.arange(len(self._names), dtype=np.uint16), phase.quotas)
        return sources[shuffled(phase.length, self._seed, "mixture", phase.since, epoch)]


def _quota(size: int, weight: float) -> int:
    """Rows of a source in an epoch; a source with any weight at all has at least one."""
    return max(1, round(weight * size)) if weight > 0 else 0
