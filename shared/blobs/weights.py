"""Weights from the learner's host to every replica's, each byte once: anchors, deltas, and one file a host.

The learner exports into a file of its host (a snapshot), which is compared with the version before while it is written,
and is published from there beside the learner's next step. A replica asks for a manifest's weights and gets files to
map: those that lie on its host, or what it makes of the blobs.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shared.blobs.encoding import Delta, Encoding
from shared.blobs.host_files import HeldFile, HostFiles
from shared.blobs.joining import Joiner
from shared.blobs.manifest import TensorEntry, WeightsManifest, file_header, tensors_digest
from shared.blobs.port import Blobs
from shared.blobs.snapshot import Snapshot
from shared.messages import BlobRef

KEPT_FILES = 2
"""Files that stay on a host though nobody uses them: a replica that comes back needs a delta only."""
_LONGEST_PAUSE = 15
"""After deltas that were too large, so many versions are published whole at most before the next try."""


@dataclass(frozen=True)
class WeightsAt:
    """The weights of the manifest in `ref` on this host: safetensors files, held until `close`.

    `files` are to be mapped: the frozen tensors', the same for all versions of a job, then this version's trained ones.
    """

    ref: BlobRef
    manifest: WeightsManifest
    held: tuple[HeldFile, ...]
    changed: frozenset[str] = frozenset()
    """The tensors whose bits are not those of the weights that it was asked for as the next of."""
    bytes_read: int = 0
    """Bytes of blobs that were fetched for it; 0: the files were there."""

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file.path for file in self.held)

    def close(self) -> None:
        for file in self.held:
            file.close()


@dataclass(frozen=True)
class Frozen:
    """The tensors that never change: one blob for all versions."""

    blob: BlobRef
    entries: tuple[TensorEntry, ...]


@dataclass(frozen=True)
class Published:
    """A version in the blob store and on this host; `sent` bytes were written for its `full` bytes of trained tensors.

    `is_anchor`: its whole tensors are published.
    """

    at: WeightsAt
    sent: int
    full: int
    is_anchor: bool


class WeightsStore:
    """Weights over a blob store and a folder of this host; its calls block."""

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self._blobs, self._files = blobs, HostFiles(folder)
        self._pool = ThreadPoolExecutor(min(4, max(1, (os.cpu_count() or 1) - 1)), "weights")  # who leads them hashes
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._joiner = Joiner(blobs, self._files, self._pool)
        self._pause, self._untried = 0, 0  # versions without a try at a delta: after the last too large one, and left

    # ---------------------------------------------------------------- replicas

    def manifest(self, ref: BlobRef) -> WeightsManifest:
        """The manifest in the blob `ref`; raises BlobMissing."""
        return self._joiner.manifest(ref)

    def materialise(self, ref: BlobRef, *, since: WeightsAt | None = None) -> WeightsAt:
        """The weights of the manifest in `ref` as files of this host; every tensor's digest was checked.

        `since`: the weights that run, against which `changed` tensors are counted; None: all are.

        Raises BlobMissing when a blob is absent or torn (a later version may be had all the same), Corrupt when sound
        blobs make other bits than were published, Unavailable when the store or the disk does not answer.
        """
        manifest, fetched = self.manifest(ref), 0
        with ExitStack() as undo:
            held = []
            for entries in filter(None, (manifest.frozen, manifest.trained)):
                file, count = self._joiner.part(ref, entries)
                undo.callback(file.close)
                held.append(file)
                fetched += count
            undo.pop_all()
        self._files.prune(KEPT_FILES)
        return WeightsAt(ref, manifest, tuple(held), _changed(manifest, since), fetched)

    def blobs_of(self, ref: BlobRef) -> set[BlobRef]:
        """All blobs that the manifest in `ref` needs: for who comes late, and for who has the version before it."""
        manifest = self.manifest(ref)
        route = self._joiner.route(ref, near=False)
        before = {manifest.base} if manifest.base is not None else set()
        return {*route.blobs, *manifest.blobs, *before}

    def backlog(self, ref: BlobRef) -> list[int]:
        """Bytes of each delta that a late joiner has to fetch after the anchor, for the manifest in `ref`."""
        return [one.blobs[-1].size for one in self._joiner.route(ref, near=False).deltas]

    # ---------------------------------------------------------------- learner

    def snapshot(self, base: WeightsAt | None = None) -> Snapshot:
        """A new file to export into; whoever has it discards it at the end, published or not.

        `base`: what it will most likely be published on.
        """
        return Snapshot(self._files.blank(), lambda made: self._encoding(made, base))

    def _encoding(self, snapshot: Snapshot, base: WeightsAt | None) -> Encoding:
        before: HeldFile | None = None
        if base is not None and base.held and base.held[-1].begins_with(file_header(snapshot.specs)[0]):
            before = base.held[-1] if self._untried == 0 else None
            self._untried = max(0, self._untried - 1)
        wanted = None if base is None else base.ref
        return Encoding(snapshot, before, self._blobs.writer, self._pool, self._encoder, wanted)

    def publish_frozen(self, snapshot: Snapshot) -> Frozen:
        """Put the tensors that never change into the blob store; every manifest names them again."""
        blob, entries = self._put_whole(snapshot, 0)
        self._keep(snapshot, entries).close()
        return Frozen(blob, entries)

    def publish(
        self, snapshot: Snapshot, *, version: int, frozen: Frozen | None, base: WeightsAt | None, anchor: bool
    ) -> Published:
        """Put a version into the blob store; the snapshot becomes its file on this host.

        As a delta on `base` where there is one of the same layout and the delta is small; as the whole tensors, too,
        for an `anchor`, and instead when there is no delta.
        """
        first, fixed = ((frozen.blob,), frozen.entries) if frozen is not None else ((), ())
        delta = self._delta(snapshot, base) if base is not None else None
        ref: BlobRef | None = None
        sent = 0
        if delta is None or anchor:
            blob, trained = self._put_whole(snapshot, len(first))
            ref, manifest = self._put_manifest(version, (*first, blob), fixed, trained, base=None, anchor=None)
            sent += blob.size
        if delta is not None and base is not None:
            blob, trained = snapshot.encoding.commit(delta), delta.entries_in(len(first))
            ref, manifest = self._put_manifest(version, (*first, blob), fixed, trained, base=base.ref, anchor=ref)
            sent += blob.size
        assert ref is not None
        return Published(self._at(ref, manifest, snapshot), sent, snapshot.nbytes, delta is None or anchor)

    def _delta(self, snapshot: Snapshot, base: WeightsAt) -> Delta | None:
        if snapshot.encoding.wanted != base.ref:  # nobody could know it when the export began
            snapshot.encoding = self._encoding(snapshot, base)
        delta = snapshot.encoding.result().delta
        if delta is not None:
            self._pause = 0
        elif snapshot.encoding.has_compared:  # most likely so of the next versions: float32 at a high rate changes all
            self._pause = self._untried = min(2 * self._pause + 1, _LONGEST_PAUSE)
        return delta

    def _put_whole(self, snapshot: Snapshot, number: int) -> tuple[BlobRef, tuple[TensorEntry, ...]]:
        """The snapshot's file as a blob, and its tensors' entries as blob `number` of a manifest."""
        made = snapshot.encoding.result()
        return self._blobs.put_file(snapshot.path, made.whole), _raw(snapshot, made.digests, blob=number)

    def adopt(self, snapshot: Snapshot, ref: BlobRef) -> WeightsAt | None:
        """Take the snapshot for the published version of `ref` if its bits are equal; else None, and it stays."""
        manifest = self.manifest(ref)
        if snapshot.encoding.result().digests != {entry.name: entry.digest for entry in manifest.trained}:
            return None
        return self._at(ref, manifest, snapshot)

    def _put_manifest(
        self,
        version: int,
        blobs: tuple[BlobRef, ...],
        frozen: tuple[TensorEntry, ...],
        trained: tuple[TensorEntry, ...],
        *,
        base: BlobRef | None,
        anchor: BlobRef | None,
    ) -> tuple[BlobRef, WeightsManifest]:
        digest = tensors_digest(frozen + trained)
        manifest = WeightsManifest(
            version=version, digest=digest, blobs=blobs, frozen=frozen, trained=trained, base=base, anchor=anchor
        )
        ref = self._blobs.put(msgspec.msgpack.encode(manifest))
        self._joiner.remember(ref, manifest)
        return ref, manifest

    def _at(self, ref: BlobRef, manifest: WeightsManifest, snapshot: Snapshot) -> WeightsAt:
        """The snapshot as this host's file of `manifest`."""
        with ExitStack() as undo:
            fixed = (self._joiner.part(ref, manifest.frozen)[0],) if manifest.frozen else ()
            for file in fixed:
                undo.callback(file.close)
            trained = self._keep(snapshot, manifest.trained)  # last: nothing may fail once it is taken
            undo.pop_all()
        return WeightsAt(ref, manifest, (*fixed, trained))

    def _keep(self, snapshot: Snapshot, entries: tuple[TensorEntry, ...]) -> HeldFile:
        digest = tensors_digest(entries)
        held = self._files.take(snapshot.path, digest)
        self._joiner.vouch(digest, held)
        self._files.prune(KEPT_FILES)
        return held


def _changed(manifest: WeightsManifest, since: WeightsAt | None) -> frozenset[str]:
    before = {} if since is None else {entry.name: entry.digest for entry in since.manifest.tensors}
    return frozenset(entry.name for entry in manifest.tensors if before.get(entry.name) != entry.digest)


def _raw(snapshot: Snapshot, digests: Mapping[str, str], *, blob: int) -> tuple[TensorEntry, ...]:
    """Entries of the snapshot's own file as blob number `blob`."""
    return tuple(
        TensorEntry(one.name, one.dtype, one.shape, digests[one.name], blob, snapshot.places[one.name], one.nbytes)
        for one in snapshot.specs
    )
