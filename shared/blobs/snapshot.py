"""What a training engine exports into: a safetensors file of its host that keeps one version's bits."""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from shared.blobs.encoding import Encoding
from shared.blobs.host_files import HeldFile, remove_made
from shared.blobs.manifest import PIECE, TensorSpec, file_header, in_file_order
from shared.errors import Corrupt, Unavailable

_LIMIT_S = 600.0
"""How long a reader waits for the next bytes of an export."""


class WeightSink(Protocol):
    """Where an engine exports tensors to, in its published type."""

    def begin(self, specs: Sequence[TensorSpec]) -> None:
        """Name all tensors that will follow; once, first."""
        ...

    def put(self, name: str, data: bytes | memoryview) -> None:
        """The contiguous bits of a tensor; a large one may come in several pieces, in order."""
        ...


class Snapshot:
    """A `WeightSink` that is a safetensors file of this host; `publish` or `discard` ends it.

    What publishing needs of it, its `encoding`, is made while it is written. Raises Unavailable when the disk is full,
    Corrupt when the bytes are not those that the specs announce.
    """

    encoding: Encoding

    def __init__(self, made: HeldFile, encode: Callable[["Snapshot"], Encoding]) -> None:
        """`made` is a file to be written over, held until the end; `encode` is called once the tensors are named."""
        self.path, self.specs = made.path, list[TensorSpec]()
        self.places: dict[str, int] = {}
        self.seconds = 0.0
        """How long the file took to be written: the stall of whoever exports."""
        self._encode = encode
        self._sizes: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._moved, self._is_discarded = threading.Condition(), False
        self._started = time.monotonic()
        self._file = os.fdopen(made.handle, "r+b")

    def begin(self, specs: Sequence[TensorSpec]) -> None:
        self.specs = in_file_order(specs)
        header, self.places = file_header(self.specs)
        self._sizes = {spec.name: spec.nbytes for spec in self.specs}
        self._written = dict.fromkeys(self.places, 0)
        with self._writing():
            self._file.truncate(len(header) + self.nbytes)
        self._write(header, 0)
        self.encoding = self._encode(self)

    def put(self, name: str, data: bytes | memoryview) -> None:
        if name not in self.places:
            raise Corrupt(f"tensor {name!r} is exported and was not announced")
        if self._written[name] + len(data) > self._sizes[name]:
            raise Corrupt(f"tensor {name!r} has more than the announced {self._sizes[name]} bytes")
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            piece = view[start : start + PIECE]
            self._write(piece, self.places[name] + self._written[name])
            with self._moved:
                self._written[name] += len(piece)
                self._moved.notify_all()

    def finish(self) -> None:
        """Check that every tensor is whole; raises Corrupt."""
        for name, size in self._sizes.items():
            if self._written[name] != size:
                raise Corrupt(f"tensor {name!r} has {self._written[name]} bytes, expected the announced {size}")
        self.seconds = time.monotonic() - self._started

    def wait_for(self, name: str, size: int) -> None:
        """Return once the first `size` bytes of a tensor are in the file.

        Raises Unavailable when the snapshot is discarded before, or nothing more of it is written.
        """
        with self._moved:
            there = self._moved.wait_for(lambda: self._is_discarded or self._written[name] >= size, _LIMIT_S)
        if self._is_discarded or not there:
            raise Unavailable(f"the export of weights ended before tensor {name!r} was whole")

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors together."""
        return sum(self._sizes.values())

    def discard(self) -> None:
        """Again is fine."""
        with self._moved:
            self._is_discarded = True
            self._moved.notify_all()
        if hasattr(self, "encoding"):
            self.encoding.discard()
        remove_made(self.path)
        self._file.close()

    def _write(self, data: bytes | memoryview, place: int) -> None:
        with self._writing():
            reserve(self._file.fileno(), place, len(data))
            write_at(self._file.fileno(), data, place)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"weights cannot be written to {self.path}: {error}") from error


def reserve(handle: int, offset: int, size: int) -> None:
    """Have the file system set bytes aside that are about to be written: faster than page by page."""
    if size == 0:
        return
    try:
        os.posix_fallocate(handle, offset, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV):  # the file system cannot
            raise


def write_at(handle: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; a single call of the system takes 2 GiB at most."""
    view = memoryview(data)
    while len(view):
        done = os.pwrite(handle, view, offset)
        view, offset = view[done:], offset + done
