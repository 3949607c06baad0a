"""Bytes by digest: images and weights live here, messages carry the claim check (`BlobRef`)."""

from pathlib import Path
from typing import Protocol

from shared.messages import BlobRef


class BlobWriter(Protocol):
    """One blob that is written piece by piece; its digest is taken on the way.

    Its methods raise Unavailable when the store cannot be written.
    """

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        ...

    def commit(self) -> BlobRef:
        """Put what was written under its digest."""
        ...

    def abort(self) -> None:
        """Leave nothing behind; after `commit` it does nothing."""
        ...


class BlobReader(Protocol):
    """One blob, read by ranges. Its bytes are not checked: who reads ranges has digests of what is in them."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """`length` bytes from `offset`; cheap when the calls go forward. Raises BlobMissing when they are not there."""
        ...

    def close(self) -> None:
        """Give back the handle."""
        ...


class Blobs(Protocol):
    """A content-addressed store; every call blocks, so services call it from a worker thread."""

    def put(self, data: bytes | memoryview) -> BlobRef:
        """Store `data` under its blake3 digest, written to a temporary name and moved; a sound copy is kept.

        Raises Unavailable when the store cannot be written (a full disk is one sentence that names the place).
        """
        ...

    def get(self, ref: BlobRef) -> bytes:
        """The bytes of `ref`, whatever size it names; raises BlobMissing when they are absent or torn."""
        ...

    def writer(self) -> BlobWriter:
        """A new blob of any size."""
        ...

    def reader(self, ref: BlobRef) -> BlobReader:
        """Ranges of `ref`; raises BlobMissing when it is absent."""
        ...

    def put_file(self, path: Path, digest: str | None = None) -> BlobRef:
        """Store a file, which nobody changes from now on: on one file system it becomes a second name of it.

        `digest`: its blake3, where the caller has it: the file is not read through for that.
        """
        ...

    def get_file(self, ref: BlobRef, path: Path) -> None:
        """Make the new file `path` of the blob, unchecked, as a second name of it where that is possible.

        Raises BlobMissing when the blob is absent.
        """
        ...

    def verify(self, ref: BlobRef) -> None:
        """Read the whole blob; raises BlobMissing when it is absent, or torn: then it is removed."""
        ...

    def has(self, ref: BlobRef) -> bool:
        """Whether a blob of that digest and size is there; its bytes are not looked at."""
        ...

    def of(self, job: str) -> "Blobs":
        """This store as one job uses it: what is put through it belongs to the job, before its bytes are there."""
        ...

    def forget(self, job: str) -> int:
        """Delete all blobs that belong to `job` and to no other job; returns how many. Again is fine.

        Raises Unavailable when the store cannot be written; what is left then goes at the next call.
        """
        ...

    def delete(self, ref: BlobRef) -> None:
        """Remove a blob, unless it belongs to another job, too; absent is fine. For its writer or last reader."""
        ...
