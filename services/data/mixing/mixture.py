"""The job's order: ordinal → row, a pure function of (seed, sizes, weights and the ordinals at which they changed).

Two orders are nested, both without replacement:

- In an epoch of the mixture a source of n rows and weight w stands round(w·n) times; the places are shuffled. With all
  weights 1 an epoch visits every row exactly once, uniformly mixed (V-Triune, section 5.1.1). With a size exponent
  α < 1 it stands in proportion to w·n^α in an epoch of the same length, so that large sources do not drown small ones
  (the temperature of multilingual training: Raffel et al. 2020, arXiv 1910.10683, section 3.5.2). An epoch is shuffled
  in rounds of at most `ROUND` places, in each of which every source has its share.
- Within a source, pass after pass, row groups come in shuffled order; consecutive ones are joined until they hold
  `SHUFFLE_ROWS` rows and shuffled together. Full shuffling would read a row group for every single row; this reads each
  once a pass, and two rows far apart in a file still meet only if their groups are drawn together. A source in stored
  order comes as its files have it (a curriculum, when they are sorted by difficulty).

A change of weights starts a new mixture epoch; every source goes on where it was, so no row is skipped or repeated
within its pass. Nothing here depends on where one starts. An ordinal costs the same at any place of any epoch, and
memory is a round's places (6 bytes each), whatever the epoch's length. A further source leaves the order in which the
rows of the others come alone.

Shuffles sort the raw output of PCG64, which numpy promises never to change.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
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
ROUND = 1 << 18
"""Places of a mixture's epoch that are shuffled together."""


def shuffled(count: int, *key: object) -> NDArray[np.int64]:
    """A permutation of range(count) that depends on `key` alone; a larger count keeps the order of the first ones."""
    return np.argsort(_random(count, *key), kind="stable")


def _random(count: int, *key: object) -> NDArray[np.uint64]:
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    raw: NDArray[np.uint64] = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(count)
    return raw


class SourceOrder:
    """The endless order of one source's rows; `segments` are the rows of its row groups, `stored`: as they stand."""

    def __init__(self, seed: int, source: str, segments: Sequence[int], *, stored: bool = False) -> None:
        self.size = sum(segments)
        self._stored = stored
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
        for segment in self._order(len(self._segments), "groups", pass_).tolist():
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
        order = self._order(sum(counts), "rows", pass_, block)
        owner = np.repeat(segments, counts)
        row = np.concatenate([np.arange(count) for count in counts])
        return owner[order], row[order]

    def _order(self, count: int, *key: object) -> NDArray[np.int64]:
        return np.arange(count) if self._stored else shuffled(count, *self._key, *key)


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

    @property
    def rounds(self) -> int:
        return -(-self.length // ROUND)

    def drawn(self, round_: int) -> list[int]:
        """Rows of each source that stand before a round of an epoch."""
        return [quota * round_ // self.rounds for quota in self.quotas]

    def round_at(self, offset: int) -> int:
        """The round in which the place `offset` of an epoch lies."""
        round_ = offset * self.rounds // self.length  # sums of whole parts are at most the whole part of the sum
        while sum(self.drawn(round_ + 1)) <= offset:
            round_ += 1
        return round_


@dataclass(frozen=True)
class _Round:
    """The places of one round: which source stands there, and how many of its rows stand before it in the round."""

    sources: NDArray[np.uint16]
    ranks: NDArray[np.uint32]


class Mixture:
    """The order of a job over its sources; `segments` are the rows of each source's row groups.

    `weights` in order of their ordinals, the first one from ordinal 0. `stored` names sources that come as their files
    have them. Raises BadData when nothing has a weight.
    """

    def __init__(
        self,
        seed: int,
        segments: Mapping[str, Sequence[int]],
        weights: Sequence[Weights],
        *,
        size_exponent: float = 1.0,
        stored: Collection[str] = (),
    ) -> None:
        self._seed = seed
        self._size_exponent = size_exponent
        self._names = sorted(segments)
        self._orders = [SourceOrder(seed, name, segments[name], stored=name in stored) for name in self._names]
        self._round = lru_cache(maxsize=2)(self._make_round)
        self._phases: list[_Phase] = []
        for change in weights:
            base = self._positions(change.since) if self._phases else (0,) * len(self._names)
            self._phases.append(self._phase(change, base))

    def at(self, ordinal: int) -> Pick:
        """The row at `ordinal` (at least 0)."""
        index = self._phase_index(ordinal)
        phase = self._phases[index]
        epoch, offset = divmod(ordinal - phase.since, phase.length)
        round_ = phase.round_at(offset)
        drawn = phase.drawn(round_)
        places = self._round(index, epoch, round_)
        place = offset - sum(drawn)
        source = int(places.sources[place])
        before = phase.base[source] + epoch * phase.quotas[source] + drawn[source] + int(places.ranks[place])
        segment, row = self._orders[source].at(before)
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
        weights = [change.by_source.get(name, 1.0) for name in self._names]
        quotas = _quotas([order.size for order in self._orders], weights, self._size_exponent)
        if not sum(quotas):
            raise BadData(f"every source has weight 0: {', '.join(self._names)}; at least one must be drawn from")
        return _Phase(change.since, quotas, sum(quotas), base)

    def _positions(self, ordinal: int) -> tuple[int, ...]:
        """How many rows of each source stand before `ordinal`."""
        index = self._phase_index(ordinal)
        phase = self._phases[index]
        epoch, offset = divmod(ordinal - phase.since, phase.length)
        round_ = phase.round_at(offset)
        drawn = phase.drawn(round_)
        sources = self._round(index, epoch, round_).sources[: offset - sum(drawn)]
        counts = np.bincount(sources, minlength=len(self._names)).tolist()
        return tuple(
            base + epoch * quota + before + count
            for base, quota, before, count in zip(phase.base, phase.quotas, drawn, counts, strict=True)
        )

    def _phase_index(self, ordinal: int) -> int:
        return bisect_right([phase.since for phase in self._phases], ordinal) - 1

    def _make_round(self, index: int, epoch: int, round_: int) -> _Round:
        """Each source's places have keys of its own, and the smallest key comes first."""
        phase = self._phases[index]
        counts = [after - before for before, after in zip(phase.drawn(round_), phase.drawn(round_ + 1), strict=True)]
        key = (self._seed, "mixture", phase.since, epoch, round_)
        keys = [_random(count, *key, name) for name, count in zip(self._names, counts, strict=True)]
        order = np.argsort(np.concatenate(keys), kind="stable")
        sources = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)[order]
        ranks = np.empty(len(sources), dtype=np.uint32)
        ranks[np.argsort(sources, kind="stable")] = np.concatenate([np.arange(count) for count in counts])
        return _Round(sources, ranks)


def _quotas(sizes: Sequence[int], weights: Sequence[float], exponent: float) -> tuple[int, ...]:
    """Rows of each source in an epoch; a source with any weight at all has at least one."""
    shares = [weight * size**exponent for size, weight in zip(sizes, weights, strict=True)]
    rows = sum(weight * size for size, weight in zip(sizes, weights, strict=True))
    scale = rows / sum(shares) if exponent != 1.0 and rows else 1.0
    return tuple(max(1, round(share * scale)) if share > 0 else 0 for share in shares)
