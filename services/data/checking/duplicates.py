"""Images that are there twice: the same bytes, or what looks the same.

What looks the same is told by a difference hash (N. Krawetz, "Kind of like that", 2013): the image as 9 x 8 grey
values, one bit a neighbour that is brighter. Two images whose hashes differ in at most `NEAR_BITS` of 64 bits look
alike. Plain drawings often share a hash without being the same: it is a hint, not a fault.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NEAR_BITS = 2
_PIECES = (0, 21), (21, 22), (43, 21)  # of two hashes that differ in 2 bits at most, one piece of three is equal
_MOST_IN_A_BUCKET = 512


def difference_hash(image: Image.Image) -> int:
    """64 bits that change little when `image` is scaled, compressed or brightened; 0 for a plain one."""
    small = image.reduce(max(1, min(image.width // 18, image.height // 16))).convert("L")
    grey = np.asarray(small.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


@dataclass(frozen=True)
class Seen:
    """One image: the file's number in the check, its row, the digest of its bytes, and its difference hash."""

    file: int
    row: int
    digest: bytes
    hash: int | None


@dataclass(frozen=True)
class Duplicates:
    """Sets of images, each with at least two members in the order in which they were seen."""

    exact: list[list[Seen]]
    near: list[list[Seen]]


def find_duplicates(images: Sequence[Seen]) -> Duplicates:
    """Images with the same bytes; and different ones that look alike, one of each exact set standing for it."""
    by_digest: dict[bytes, list[Seen]] = defaultdict(list)
    for image in images:
        by_digest[image.digest].append(image)
    exact = [members for members in by_digest.values() if len({(seen.file, seen.row) for seen in members}) > 1]
    first = [members[0] for members in by_digest.values() if members[0].hash]  # a plain image has the hash 0
    near = [[first[index] for index in members] for members in _alike([seen.hash or 0 for seen in first])]
    return Duplicates(exact, near)


def _alike(hashes: Sequence[int]) -> list[list[int]]:
    """Sets of indices whose hashes are linked by steps of at most `NEAR_BITS` bits."""
    values = np.array(hashes, dtype=np.uint64)
    owner = list(range(len(hashes)))

    def root(index: int) -> int:
        while owner[index] != index:
            owner[index] = owner[owner[index]]
            index = owner[index]
        return index

    for shift, width in _PIECES:
        piece = (values >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        for bucket in _buckets(piece):
            for place, index in enumerate(bucket[:-1]):
                others = bucket[place + 1 :]
                close = np.bitwise_count(values[others] ^ values[index]) <= NEAR_BITS
                for other in others[close].tolist():
                    owner[root(other)] = root(int(index))
    sets: dict[int, list[int]] = defaultdict(list)
    for index in range(len(hashes)):
        sets[root(index)].append(index)
    return [members for members in sets.values() if len(members) > 1]


def _buckets(keys: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Indices of equal keys, at least two; of a bucket only the first ones, so that the work has an end."""
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    return [bucket[:_MOST_IN_A_BUCKET] for bucket in np.split(order, edges) if len(bucket) > 1]
