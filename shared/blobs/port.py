"""Bytes by digest: images and weights live here, messages carry the claim check (`BlobRef`)."""

from typing import Protocol

from shared.messages import BlobRef


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

    def has(self, ref: BlobRef) -> bool:
        """Whether a blob of that digest and size is there; its bytes are not looked at."""
        ...

    def delete(self, ref: BlobRef) -> None:
        """Remove a blob; absent is fine. The learner alone calls it."""
        ...
