"""Lossless deltas: where bits are not those of an earlier version, and what to xor them with.

Reinforcement learning moves a weight by about 1e-6 of its size, which bfloat16 mostly rounds away: few bits differ.
(PULSE, arXiv 2602.03839, section 3: about 99 % of the weights keep their bits in a step.) A piece's frame is a byte
that says its form, a count (uint32), and zstd of: all its bytes' xor; or, where few differ, of the 16-bit units that
do the distances from one to the next (uint32) and their xor (uint16), each as planes of equal bytes, which compress
better.
"""

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shared.errors import BlobMissing

_ZSTD = pa.Codec("zstd", compression_level=1)
_HEAD = struct.Struct("<BI")
_DENSE, _SPARSE = 0, 1
_WORD, _UNITS = 8, 4
"""Bytes that are compared at once, and 16-bit units in them."""
_FEW = 0.25
"""Share of changed words up to which their places are written."""


def frame_of(blocks: Iterable[tuple[memoryview, ...]]) -> bytes:
    """What makes old bits to new ones; empty: they are equal.

    `blocks`: pairs of new and old bits of one length, one after the other, of whole words but for the last pair. They
    may lie in the same buffers each time.
    """
    words, xors, rest, start = list[NDArray[Any]](), list[NDArray[Any]](), b"", 0
    for after, before in blocks:
        count = len(after) // _WORD
        new, old = (np.frombuffer(bits, dtype="<u8", count=count) for bits in (after, before))
        found = np.flatnonzero(new != old)
        words.append(found + start)
        xors.append(new[found] ^ old[found])
        start += count
        rest = bytes(a ^ b for a, b in zip(after[count * _WORD :], before[count * _WORD :], strict=True))
    changed, xor = np.concatenate(words), np.concatenate(xors)
    if any(rest) or len(changed) > _FEW * start:
        whole = np.zeros(start, dtype="<u8")
        whole[changed] = xor
        return _framed(_DENSE, 0, whole.tobytes() + rest)
    if not len(changed):
        return b""
    halves = xor.view("<u2")
    units = np.flatnonzero(halves != 0)  # of truth values it is five times as fast as of numbers
    places = (changed[units // _UNITS] * _UNITS + units % _UNITS).astype("<u4")
    distances = np.diff(places, prepend=places.dtype.type(0))
    return _framed(_SPARSE, len(units), np.concatenate([_planes(distances), _planes(halves[units])]).data)


def apply(frame: bytes | memoryview, bits: memoryview) -> None:
    """Change `bits` in place; raises BlobMissing when the frame is torn."""
    try:
        form, count = _HEAD.unpack_from(frame)
        body = memoryview(frame)[_HEAD.size :]
        if form == _DENSE:
            np.frombuffer(bits, dtype=np.uint8)[:] ^= np.frombuffer(_ZSTD.decompress(body, len(bits)), dtype=np.uint8)
            return
        if 2 * count > len(bits):
            raise IndexError(f"{count} changes of {len(bits)} bytes")
        planes = np.frombuffer(_ZSTD.decompress(body, 6 * count), dtype=np.uint8)
        places = np.cumsum(_unplaned(planes[: 4 * count], "<u4"), dtype=np.int64)
        units = np.frombuffer(bits, dtype="<u2", count=len(bits) // 2)
        units[places] ^= _unplaned(planes[4 * count :], "<u2")
    except (OSError, struct.error, IndexError) as error:  # no zstd frame of that length, or places that there are not
        raise BlobMissing(f"a delta of weights is torn: {error}") from error


def _framed(form: int, count: int, body: Any) -> bytes:
    return _HEAD.pack(form, count) + bytes(_ZSTD.compress(body, asbytes=True))


def _planes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """The first bytes of all values, then the second ones, …"""
    return values.view(np.uint8).reshape(-1, values.itemsize).T.ravel()


def _unplaned(planes: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    return np.ascontiguousarray(planes.reshape(np.dtype(kind).itemsize, -1).T).view(kind)[:, 0]
