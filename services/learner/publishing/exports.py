"""The learner's weights as the world gets them: exported into a file, published from there, kept while needed."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from services.learner.engine import Engine, Layout, Scope
from shared.blobs.manifest import TensorSpec
from shared.blobs.port import Blobs
from shared.blobs.snapshot import Snapshot
from shared.blobs.weights import Frozen, WeightsAt, WeightsStore
from shared.errors import BlobMissing
from shared.messages import BlobRef, WeightsPublished, WeightsSync

_TYPES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
BACKLOG_SHARE = 0.5
"""Deltas since the last anchor that are together larger than this share of the trained tensors call for the next."""


@dataclass(frozen=True)
class Stored:
    """A version that is in the blob store: where, the digest of its tensors, and what it took."""

    manifest: BlobRef
    digest: str
    sync: WeightsSync


class FileSink:
    """`services.learner.engine.TensorSink` over a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def begin(self, layout: Layout) -> None:
        self._snapshot.begin([TensorSpec(name, _TYPES[dtype], shape) for name, (dtype, shape) in layout.items()])

    def put(self, name: str, tensor: Tensor) -> None:
        self._snapshot.put(name, tensor.reshape(-1).view(torch.uint8).numpy().data)


class Exports:
    """What is published of one job's weights; `snapshot` is for the compute thread, all else for one other thread."""

    def __init__(self, engine: Engine, blobs: Blobs, store: WeightsStore, anchor_every: int) -> None:
        self._engine, self._blobs, self._store, self._anchor_every = engine, blobs, store, anchor_every
        self._frozen: Frozen | None = None
        self._frozen_snapshot: Snapshot | None = None
        self._has_frozen = False
        self._last: BlobRef | None = None
        self._base: WeightsAt | None = None
        """The bits of `_last` on this host."""
        self._versions: dict[int, set[BlobRef]] = {}

    def recover(self, published: Mapping[int, BlobRef]) -> None:
        """Go on from an earlier learner's announcements: manifests by version, the newest last."""
        for version, ref in published.items():
            self._last = ref
            with contextlib.suppress(BlobMissing):  # deleted, with all that it names
                self._versions[version] = self._store.blobs_of(ref)

    def has(self, ref: BlobRef) -> bool:
        """Whether all blobs that the manifest in `ref` needs are in the store."""
        try:
            return all(map(self._blobs.has, self._store.blobs_of(ref)))
        except BlobMissing:
            return False

    # ---------------------------------------------------------------- one version

    def snapshot(self) -> Snapshot:
        """The trained weights as they are now; with the first one, also the frozen ones are exported."""
        if not self._has_frozen:
            self._frozen_snapshot, self._has_frozen = self._export("frozen"), True
        return self._export("trained")

    def _export(self, scope: Scope) -> Snapshot:
        made = self._store.snapshot(self._base if scope == "trained" else None)
        with contextlib.ExitStack() as undo:
            undo.callback(made.discard)
            self._engine.export(FileSink(made), scope=scope)
            made.finish()
            undo.pop_all()
        return made

    def store(self, snapshot: Snapshot, version: int, announced: WeightsPublished | None = None) -> Stored:
        """Put a version into the blob store: what changed since the one before, from time to time the whole tensors.

        `announced`: the version was announced before. Nothing is sent when its bits are equal and its blobs are there;
        else it is published whole. Raises Unavailable; the same call may be made again then.
        """
        started = time.monotonic()
        self._publish_frozen()
        if announced is not None and self.has(announced.manifest):
            base = self._store.adopt(snapshot, announced.manifest)
            if base is not None:
                self._keep(version, base)
                return Stored(announced.manifest, announced.digest, announced.sync)
        base = self._usable_base() if announced is None else None
        made = self._store.publish(
            snapshot, version=version, frozen=self._frozen, base=base, anchor=base is None or self._is_due(base)
        )
        self._keep(version, made.at)
        sync = WeightsSync(
            sent_bytes=made.sent, full_bytes=made.full, is_anchor=made.is_anchor,
            export_s=snapshot.seconds, publish_s=time.monotonic() - started,
        )  # fmt: skip
        return Stored(made.at.ref, made.at.manifest.digest, sync)

    def _publish_frozen(self) -> None:
        made = self._frozen_snapshot
        if made is None:
            return
        self._frozen = self._store.publish_frozen(made) if made.specs else None
        made.discard()
        self._frozen_snapshot = None  # not before: a store that is away is asked again

    def _usable_base(self) -> WeightsAt | None:
        """The version before, when a late replica can still come to it and its bits are to be had."""
        if self._last is None or not self.has(self._last):
            return None
        if self._base is None:
            with contextlib.suppress(BlobMissing):
                self._base = self._store.materialise(self._last)
        return self._base

    def _is_due(self, base: WeightsAt) -> bool:
        """Whether a late replica's way to the next version would be too long, or too many bytes."""
        backlog = self._store.backlog(base.ref)
        full = sum(entry.spec.nbytes for entry in base.manifest.trained)
        return len(backlog) + 1 >= self._anchor_every or sum(backlog) > BACKLOG_SHARE * full

    def _keep(self, version: int, at: WeightsAt) -> None:
        if self._base is not None:
            self._base.close()
        self._last, self._base = at.ref, at
        self._versions[version] = self._store.blobs_of(at.ref)

    # ---------------------------------------------------------------- what may go

    def delete_before(self, version: int, needed: set[int]) -> None:
        """Delete the blobs of versions below `version` that are not in `needed` and that no kept version needs."""
        old = [v for v in self._versions if v < version and v not in needed]
        kept = set[BlobRef]().union(*(blobs for v, blobs in self._versions.items() if v not in old))
        for v in old:
            for ref in self._versions[v] - kept:
                self._blobs.delete(ref)
            del self._versions[v]

    def close(self) -> None:
        """Let go of the host's files."""
        if self._base is not None:
            self._base.close()
        if self._frozen_snapshot is not None:
            self._frozen_snapshot.discard()
