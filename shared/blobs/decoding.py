"""A version's file from an earlier one's bits and the deltas since: written, and its digests taken, in one pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor

from blake3 import blake3

from shared.blobs.deltas import apply
from shared.blobs.manifest import TensorEntry, TensorSpec
from shared.blobs.pieces import Place, Read, buffers, in_order, places_of, worker
from shared.blobs.port import BlobReader

Frames = list[bytes | memoryview]
DeltaBlob = tuple[BlobReader, Mapping[str, TensorEntry]]
"""Where the frames of a delta lie, and the entries of its tensors by name."""


def decode(
    specs: Sequence[TensorSpec],
    places: Mapping[str, int],
    base: Read,
    deltas: Sequence[DeltaBlob],
    write: Callable[[int, memoryview], None],
    pool: Executor,
) -> dict[str, str]:
    """Write every tensor: `base` and all `deltas` xored together, which is the same in any order.

    `base` and the readers are called from one thread, going forward. Returns the digests of what was written, by name:
    they are the caller's to check. Raises BlobMissing when a piece is absent or can't be decompressed.
    """

    def pieces() -> Iterator[tuple[Place, memoryview, Frames]]:
        bits = buffers(specs)
        for place in places_of(specs, places):
            piece = next(bits)[: place.length]
            base(place.offset, piece)
            yield place, piece, [frame for delta in deltas if (frame := _frame(delta, place))]

    def work(item: tuple[Place, memoryview, Frames]) -> None:
        place, piece, frames = item
        for frame in frames:
            apply(frame, piece)
        write(place.offset, piece)

    found, hasher = dict[str, str](), blake3()
    for (place, piece, _), _ in in_order(worker(pool, specs), work, pieces()):
        hasher.update(piece)
        if place.is_last:
            found[place.spec.name], hasher = hasher.hexdigest(), blake3()
    return found


def _frame(delta: DeltaBlob, place: Place) -> bytes | memoryview:
    reader, entries = delta
    entry = entries[place.spec.name]
    length = entry.pieces[place.number]
    return reader.read(entry.offset + sum(entry.pieces[: place.number]), length) if length else b""
