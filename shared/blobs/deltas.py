"""Lossless deltas: where a tensor's bits are not those of an earlier version, and what to xor them with.

Reinforcement learning moves a weight by about 1e-6 of its size, which bfloat16 mostly rounds away: few bits differ.
(PULSE, arXiv 2602.03839, section 3: about 99 % of the weights keep their bits in a step.) All work is cut into
pieces, so that memory is bounded by a few of them whatever the model's size. A piece's frame is a byte that says its
form, a count (uint32), and zstd of: all its bytes' xor; or, where few differ, of the 16-bit units that do the distances
from one to the next (uint32) and their xor (uint16), each as planes of equal bytes, which compress better.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from blake3 import blake3
from numpy.typing import NDArray

from shared.blobs.manifest import PIECE, TensorEntry, TensorSpec
from shared.blobs.port import BlobReader, BlobWriter
from shared.errors import BlobMissing

Read = Callable[[int, int], bytes | memoryview]
"""(offset, length) → bytes of a safetensors file."""
Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4
"""Pieces in work or waiting for their turn."""
_SMALL_BYTES = 2 << 20
"""Tensors that are together smaller are worked on in place: handing pieces to threads would take longer."""
_ZSTD = pa.Codec("zstd", compression_level=1)
_HEAD = struct.Struct("<BI")
_DENSE, _SPARSE = 0, 1
_WORD, _UNITS = 8, 4
"""Bytes that are compared at once, and 16-bit units in them."""
_FEW = 0.25
"""Share of changed words up to which their places are written."""


class TooLarge(Exception):
    """The delta passed its limit: the whole tensors are cheaper."""


def encode(
    specs: Sequence[TensorSpec],
    places: Mapping[str, int],
    new: Read,
    base: Read,
    writer: BlobWriter,
    pool: Executor,
    *,
    limit: int,
    blob: int,
) -> list[TensorEntry]:
    """Write the delta from `base` to `new`, two files of one layout; the entries point into blob number `blob`.

    Raises TooLarge once more than `limit` bytes were written.
    """

    def work(item: _Place) -> tuple[bytes | memoryview, bytes]:
        after, before = new(item.offset, item.length), base(item.offset, item.length)
        return after, _delta(after, before)

    entries: list[TensorEntry] = []
    hasher, pieces, start, written = blake3(), [], 0, 0
    for item, (after, delta) in _in_order(_worker(pool, specs), work, _places(specs, places)):
        hasher.update(after)
        writer.write(delta)
        written += len(delta)
        pieces.append(len(delta))
        if written > limit:
            raise TooLarge
        if item.is_last:
            entries.append(
                TensorEntry(
                    item.spec.name, item.spec.dtype, item.spec.shape, hasher.hexdigest(), blob, start, written - start,
                    "delta", tuple(pieces),
                )
            )  # fmt: skip
            hasher, pieces, start = blake3(), [], written
    return entries


def decode(
    specs: Sequence[TensorSpec],
    places: Mapping[str, int],
    base: Read,
    deltas: Sequence[tuple[BlobReader, Mapping[str, TensorEntry]]],
    write: Callable[[int, bytes | memoryview], None],
    pool: Executor,
) -> None:
    """Write every tensor: `base` and all `deltas` xored together, which is the same in any order.

    Raises BlobMissing when a piece is absent or can't be decompressed; the digests are to be checked by the caller.
    """

    def frames(place: _Place) -> tuple[_Place, list[bytes | memoryview]]:
        found = [_frame(reader, tensors[place.spec.name], place.number) for reader, tensors in deltas]
        return place, [frame for frame in found if frame]

    def work(item: tuple[_Place, list[bytes | memoryview]]) -> None:
        place, compressed = item
        bits = base(place.offset, place.length)
        for frame in compressed:
            bits = _applied(bits, frame, place)
        write(place.offset, bits)

    for _ in _in_order(_worker(pool, specs), work, map(frames, _places(specs, places))):
        pass


def digests(specs: Sequence[TensorSpec], places: Mapping[str, int], read: Read, pool: Executor) -> dict[str, str]:
    """blake3 of every tensor's bits, by name."""

    def digest(spec: TensorSpec) -> str:
        hasher = blake3()
        for place in _places([spec], places):
            hasher.update(read(place.offset, place.length))
        return hasher.hexdigest()

    return dict(zip((spec.name for spec in specs), _worker(pool, specs).map(digest, specs), strict=True))


class _InPlace(Executor):
    """Work is done by whoever submits it."""

    def submit(self, work: Callable[..., Result], /, *arguments: Any, **options: Any) -> Future[Result]:
        done: Future[Result] = Future()
        done.set_result(work(*arguments, **options))
        return done


def _worker(pool: Executor, specs: Iterable[TensorSpec]) -> Executor:
    return pool if sum(spec.nbytes for spec in specs) > _SMALL_BYTES else _InPlace()


class _Place(msgspec.Struct, frozen=True):
    """Piece `number` of a tensor: where it lies in the file."""

    spec: TensorSpec
    number: int
    offset: int
    length: int
    is_last: bool


def _places(specs: Iterable[TensorSpec], places: Mapping[str, int]) -> Iterator[_Place]:
    """Every tensor's pieces; an empty tensor has one of no bytes."""
    for spec in specs:
        size, start = spec.nbytes, places[spec.name]
        count = max(1, -(-size // PIECE))
        for number in range(count):
            begin = number * PIECE
            yield _Place(spec, number, start + begin, min(PIECE, size - begin), number == count - 1)


def _in_order(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """`work` of every item in the pool, `_AHEAD` at a time, in the order of the items."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _delta(after: bytes | memoryview, before: bytes | memoryview) -> bytes:
    """The frame that makes `before` to `after`, of equal lengths; empty: they are equal."""
    size = len(after)
    new, old = (np.frombuffer(bits, dtype="<u8", count=size // _WORD) for bits in (after, before))
    changed = np.flatnonzero(new != old)
    rest = size - size % _WORD
    has_rest = after[rest:] != before[rest:]
    if not len(changed) and not has_rest:
        return b""
    if has_rest or len(changed) > _FEW * len(new):
        return _framed(_DENSE, 0, _xor(after, before))
    words = (new[changed] ^ old[changed]).view("<u2")
    units = np.flatnonzero(words)
    places = changed[units // _UNITS] * _UNITS + units % _UNITS
    distances = np.diff(places, prepend=0).astype("<u4")
    return _framed(_SPARSE, len(units), np.concatenate([_planes(distances), _planes(words[units])]).data)


def _applied(bits: bytes | memoryview, frame: bytes | memoryview, place: "_Place") -> memoryview:
    """`bits` after the change of `frame`; raises BlobMissing when it is torn."""
    try:
        form, count = _HEAD.unpack_from(frame)
        body = memoryview(frame)[_HEAD.size :]
        if form == _DENSE:
            return _xor(bits, _ZSTD.decompress(body, place.length))
        if 2 * count > place.length:
            raise IndexError(f"{count} changes of {place.length} bytes")
        planes = np.frombuffer(_ZSTD.decompress(body, 6 * count), dtype=np.uint8)
        places = np.cumsum(_unplaned(planes[: 4 * count], "<u4"), dtype=np.int64)
        changed = np.frombuffer(bits, dtype=np.uint8).copy()
        changed[: len(changed) // 2 * 2].view("<u2")[places] ^= _unplaned(planes[4 * count :], "<u2")
        return changed.data
    except (OSError, struct.error, IndexError) as error:  # no zstd frame of that length, or places that there are not
        raise BlobMissing(f"a delta of tensor {place.spec.name!r} is torn: {error}") from error


def _framed(form: int, count: int, body: Any) -> bytes:
    return _HEAD.pack(form, count) + bytes(_ZSTD.compress(body, asbytes=True))


def _planes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """The first bytes of all values, then the second ones, …"""
    return values.view(np.uint8).reshape(-1, values.itemsize).T.ravel()


def _unplaned(planes: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    return np.ascontiguousarray(planes.reshape(np.dtype(kind).itemsize, -1).T).view(kind)[:, 0]


def _xor(one: Any, other: Any) -> memoryview:
    return np.bitwise_xor(np.frombuffer(one, dtype=np.uint8), np.frombuffer(other, dtype=np.uint8)).data


def _frame(reader: BlobReader, entry: TensorEntry, number: int) -> bytes | memoryview:
    length = entry.pieces[number]
    return reader.read(entry.offset + sum(entry.pieces[:number]), length) if length else b""
