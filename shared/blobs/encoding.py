"""What is published of a snapshot: its tensors' digests and its delta on the version before, made in one pass.

A large snapshot is followed while it is still being written: little is left to do when it is whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
from blake3 import blake3

from shared.blobs.deltas import frame_of
from shared.blobs.host_files import HeldFile, read_into
from shared.blobs.manifest import TensorEntry, TensorSpec, file_header
from shared.blobs.pieces import Place, Read, blocks, buffers, in_order, is_small, places_of, worker
from shared.blobs.port import BlobWriter
from shared.errors import TriuneError, Unavailable
from shared.messages import BlobRef

DELTA_SHARE = 0.5
"""A delta larger than this share of the tensors is not worth it: the version is published whole."""


class Source(Protocol):
    """A safetensors file that may still be in the making; `shared.blobs.snapshot.Snapshot`."""

    path: Path
    specs: list[TensorSpec]
    places: dict[str, int]

    def wait_for(self, name: str, size: int) -> None: ...


@dataclass(frozen=True)
class Delta:
    """Compressed changes, not yet under their digest; the entries point into blob number 0."""

    writer: BlobWriter
    entries: tuple[TensorEntry, ...]

    def entries_in(self, blob: int) -> tuple[TensorEntry, ...]:
        """The same, of blob number `blob`."""
        return tuple(msgspec.structs.replace(entry, blob=blob) for entry in self.entries)


@dataclass(frozen=True)
class Encoded:
    """Digests of the tensors by name; the delta, None without a base or where it would be too large.

    `whole`: digest of the file; None where there was a base.
    """

    digests: Mapping[str, str]
    delta: Delta | None
    whole: str | None


class Encoding:
    """An `Encoded` in the making: beside the export if the snapshot is large, else by whoever asks for it first."""

    def __init__(
        self,
        source: Source,
        base: HeldFile | None,
        new_blob: Callable[[], BlobWriter],
        pool: Executor,
        beside: Executor,
        wanted: BlobRef | None,
    ) -> None:
        """`base`: the version before, a file of the same layout. Pieces are worked on in `pool`, led from `beside`.

        `wanted`: the manifest that it is to be a delta on, also where there is no base for a reason.
        """
        self.has_compared, self.wanted = base is not None, wanted
        self._encode = partial(_encode, source, base, new_blob, pool)
        self._ahead = None if is_small(source.specs) else beside.submit(self._encode)
        self._made: Encoded | None = None

    def result(self) -> Encoded:
        """Blocks; raises Unavailable, and may be asked again then."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            self._made = ahead.result()
        if self._made is None:
            self._made = self._encode()
        return self._made

    def commit(self, delta: Delta) -> BlobRef:
        """The blob of the delta that was made; raises Unavailable: it is made anew when it is asked for again."""
        try:
            return delta.writer.commit()
        except Unavailable:
            self._made = None
            raise

    def discard(self) -> None:
        """Leave nothing behind of what was not committed."""
        if self._ahead is not None:
            self._ahead.add_done_callback(_discard)
        if self._made is not None and self._made.delta is not None:
            self._made.delta.writer.abort()


def _discard(ahead: Future[Encoded]) -> None:
    if ahead.exception() is None and (delta := ahead.result().delta) is not None:
        delta.writer.abort()


def _encode(source: Source, base: HeldFile | None, new_blob: Callable[[], BlobWriter], pool: Executor) -> Encoded:
    try:
        with source.path.open("rb") as file:
            read = partial(_read, file.fileno(), source.path)
            if base is None:
                return _digested(source, read)
            return _compared(source, read, base, _Changes(new_blob(), source.specs), pool)
    except OSError as error:
        raise Unavailable(f"weights cannot be read from {source.path}: {error}") from error


def _digested(source: Source, read: Read) -> Encoded:
    """Without a base: the whole file is published, so that it is hashed, too."""
    whole, hasher, digests = blake3(file_header(source.specs)[0]), blake3(), dict[str, str]()
    for place in _written(source):
        for block in blocks(read, offset=place.offset, length=place.length):
            hasher.update(block)
            whole.update(block)
        if place.is_last:
            digests[place.spec.name], hasher = hasher.hexdigest(), blake3()
    return Encoded(digests, None, whole.hexdigest())


def _compared(source: Source, read: Read, base: HeldFile, changes: "_Changes", pool: Executor) -> Encoded:
    """This thread reads and hashes, those of the pool compare."""

    def pieces() -> Iterator[tuple[Place, memoryview]]:
        bits = buffers(source.specs)
        for place in _written(source):
            piece = next(bits)[: place.length]
            read(place.offset, piece)
            yield place, piece

    def frame(item: tuple[Place, memoryview]) -> bytes:
        return b"" if changes.are_too_large else frame_of(_beside(item, base.read))

    digests, hasher = dict[str, str](), blake3()
    try:
        for (place, piece), found in in_order(worker(pool, source.specs), frame, pieces()):
            hasher.update(piece)
            if place.is_last:
                digests[place.spec.name], hasher = hasher.hexdigest(), blake3()
            changes.add(place, found, digests)
    except TriuneError:
        changes.abort()
        raise
    return Encoded(digests, changes.delta(), None)


def _beside(new: tuple[Place, memoryview], old: Read) -> Iterator[tuple[memoryview, memoryview]]:
    """A piece and what lay in its place before, block by block."""
    place, piece = new
    begin = 0
    for block in blocks(old, offset=place.offset, length=place.length):
        yield piece[begin : begin + len(block)], block
        begin += len(block)


def _written(source: Source) -> Iterator[Place]:
    """Every piece, as soon as it is in the file."""
    for place in places_of(source.specs, source.places):
        source.wait_for(place.spec.name, place.end)
        yield place


def _read(handle: int, path: Path, offset: int, into: memoryview) -> None:
    read_into(handle, into, offset, path)


class _Changes:
    """A delta in the making."""

    def __init__(self, writer: BlobWriter, specs: Sequence[TensorSpec]) -> None:
        self._writer, self._limit = writer, int(DELTA_SHARE * sum(spec.nbytes for spec in specs))
        self._entries: list[TensorEntry] = []
        self._pieces: list[int] = []
        self._start = self._end = 0
        self.are_too_large = False

    def add(self, place: Place, frame: bytes, digests: Mapping[str, str]) -> None:
        """The next piece; `digests` has its tensor's when it is the last one."""
        if self.are_too_large:
            return
        self._writer.write(frame)
        self._pieces.append(len(frame))
        self._end += len(frame)
        if self._end > self._limit:
            self.are_too_large = True
            self.abort()
        elif place.is_last:
            name, dtype, shape = place.spec.name, place.spec.dtype, place.spec.shape
            start, length = self._start, self._end - self._start
            entry = TensorEntry(name, dtype, shape, digests[name], 0, start, length, "delta", tuple(self._pieces))
            self._entries.append(entry)
            self._pieces, self._start = [], self._end

    def delta(self) -> Delta | None:
        """All of it; None when it is too large."""
        return None if self.are_too_large else Delta(self._writer, tuple(self._entries))

    def abort(self) -> None:
        self._writer.abort()
