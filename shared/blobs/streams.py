"""Blobs that are too large to be one bytes object: written and read piece by piece."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3

from shared.blobs.host_files import hold
from shared.errors import BlobMissing, Unavailable
from shared.messages import BlobRef

PIECE = 8 * 1024 * 1024
"""Bytes that are read or written at a time, and read ahead."""


class SpooledWriter:
    """`shared.blobs.port.BlobWriter` over a local temporary file, which `take` brings under the digest at the end.

    An object store is written only then: it has no name for what has no digest yet. The file is held meanwhile.
    """

    def __init__(self, folder: Path, place: str, take: Callable[[Path, BlobRef], None]) -> None:
        self._place, self._take = place, take
        self._hasher, self._size = blake3(), 0
        self._path = folder / uuid.uuid4().hex
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self._path.open("wb")
            with contextlib.suppress(OSError):  # a share may know no locks: what was left there is told by its age
                hold(self._file.fileno())
        except OSError as error:
            raise self._unavailable(error) from error

    def write(self, data: bytes | memoryview) -> None:
        with self._errors():
            self._file.write(data)
        self._hasher.update(data)
        self._size += len(data)

    def commit(self) -> BlobRef:
        ref = BlobRef(digest=self._hasher.hexdigest(), size=self._size)
        with self._errors():
            self._file.close()
            self._take(self._path, ref)
        self.abort()
        return ref

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abort()
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> Unavailable:
        return Unavailable(f"blob store {self._place} cannot take {self._size} bytes: {error}")


class AheadReader:
    """`shared.blobs.port.BlobReader` over a pyarrow file: reads `PIECE` bytes ahead, so that small ranges are cheap."""

    def __init__(self, source: Any, ref: BlobRef, place: str) -> None:
        self._source, self._ref, self._place = source, ref, place
        self._start, self._held = 0, memoryview(b"")

    def read(self, offset: int, length: int) -> bytes | memoryview:
        begin = offset - self._start
        if begin < 0 or begin + length > len(self._held):
            self._fetch(offset, max(length, PIECE))
            begin = 0
        if begin + length > len(self._held):
            raise BlobMissing(
                f"blob {self._ref.digest} in {self._place} is torn: it ends before byte {offset + length}, "
                f"expected {self._ref.size}"
            )
        return self._held[begin : begin + length]

    def _fetch(self, offset: int, length: int) -> None:
        try:
            self._held = memoryview(self._source.read_at(length, offset))
        except OSError as error:
            raise Unavailable(f"blob store {self._place} cannot be read: {error}") from error
        self._start = offset

    def close(self) -> None:
        self._source.close()


def copy_stream(source: Any, target: Any) -> None:
    """Copy from one open file to another, a piece at a time."""
    while piece := source.read(PIECE):
        target.write(piece)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a second name of `source`, or its copy where the file system has no such names."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        with source.open("rb") as origin, target.open("xb") as copy:
            copy_stream(origin, copy)
