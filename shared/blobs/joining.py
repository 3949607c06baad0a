"""A host's way to a version: from a file that it has or from an anchor, by the fewest bytes, each tensor checked."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from shared.blobs.decoding import decode
from shared.blobs.host_files import HeldFile, HostFiles
from shared.blobs.manifest import TensorEntry, WeightsManifest, file_header, in_file_order, tensors_digest
from shared.blobs.pieces import Read, digests
from shared.blobs.port import BlobReader, Blobs
from shared.blobs.snapshot import reserve, write_at
from shared.errors import BlobMissing, Corrupt, Unavailable
from shared.messages import BlobRef

Key = TypeVar("Key")
Value = TypeVar("Value")
MAKING_LIMIT_S = 600.0
"""How long a replica waits for another one on its host that makes a file."""
_REMEMBERED = 64
"""Manifests, and files that were checked, of which this process knows."""


@dataclass(frozen=True)
class Route:
    """`deltas` to be applied, newest first, to `start`: a file of this host, or the blob of an anchor's whole tensors.

    `cost` is in bytes to fetch; `manifests` are those on the way.
    """

    deltas: tuple[WeightsManifest, ...]
    start: HeldFile | BlobRef
    cost: int
    manifests: tuple[BlobRef, ...] = ()

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """All blobs on the way."""
        whole = (self.start,) if isinstance(self.start, BlobRef) else ()
        return (*self.manifests, *(one.blobs[-1] for one in self.deltas), *whole)


class Joiner:
    """Makes the files of manifests on this host."""

    def __init__(self, blobs: Blobs, files: HostFiles, pool: Executor) -> None:
        self._blobs, self._files, self._pool = blobs, files, pool
        self._manifests: dict[BlobRef, WeightsManifest] = {}
        self._sound: dict[str, tuple[int, int, int]] = {}
        """Identity, by digest, of the files that this process has checked, or made."""

    def manifest(self, ref: BlobRef) -> WeightsManifest:
        """The manifest in the blob `ref`; raises BlobMissing."""
        if ref not in self._manifests:
            try:
                self.remember(ref, msgspec.msgpack.decode(self._blobs.get(ref), type=WeightsManifest))
            except msgspec.DecodeError as error:
                raise Corrupt(f"blob {ref.digest} is no manifest of weights: {error}") from error
        return self._manifests[ref]

    def remember(self, ref: BlobRef, manifest: WeightsManifest) -> None:
        """What the blob `ref` holds need not be asked for."""
        _remember(self._manifests, ref, manifest)

    def route(self, ref: BlobRef, *, near: bool) -> Route:
        """The cheapest way to the trained tensors of the manifest in `ref`; `near`: files of this host may be used.

        Raises BlobMissing when a manifest on every way is absent.
        """
        steps, cost, passed = list[WeightsManifest](), 0, [ref]
        best: Route | None = None
        current = self.manifest(ref)
        while best is None or cost < best.cost:
            if near and steps and (held := self._files.open(tensors_digest(current.trained))) is not None:
                return Route(tuple(steps), held, cost, tuple(passed))
            best = min(filter(None, (best, self._whole(current, steps, cost, passed))), key=_cost, default=None)
            if current.base is None:
                break
            steps.append(current)
            cost += current.blobs[-1].size
            passed.append(current.base)
            try:
                current = self.manifest(current.base)
            except BlobMissing:
                if best is None:
                    raise
                break
        assert best is not None
        return best

    def _whole(
        self, at: WeightsManifest, steps: Sequence[WeightsManifest], cost: int, passed: Sequence[BlobRef]
    ) -> Route | None:
        """The way that starts with the whole tensors of `at`, if they are published."""
        if at.base is None:
            return Route(tuple(steps), at.blobs[-1], cost + at.blobs[-1].size, tuple(passed))
        if at.anchor is None:
            return None
        whole = self.manifest(at.anchor).blobs[-1]
        return Route(tuple(steps), whole, cost + whole.size, (*passed, at.anchor))

    def part(self, ref: BlobRef, entries: tuple[TensorEntry, ...]) -> tuple[HeldFile, int]:
        """The file of the frozen, or of the trained, tensors of the manifest in `ref`; and the bytes fetched for it.

        Raises BlobMissing when a blob is absent or torn, Corrupt when sound blobs make other bits than were published.
        """
        digest = tensors_digest(entries)
        found = self._sound_file(digest, entries)
        if found is not None:
            return found, 0
        with self._files.making(MAKING_LIMIT_S):
            found = self._sound_file(digest, entries)
            if found is not None:
                return found, 0
            try:
                held, fetched = self._make(digest, ref, entries, near=True)
            except BlobMissing:  # a file of this host that it was made from may be damaged: from blobs alone
                held, fetched = self._make(digest, ref, entries, near=False)
        self.vouch(digest, held)
        return held, fetched

    def vouch(self, digest: str, held: HeldFile) -> None:
        """Its bits are known to be right."""
        _remember(self._sound, digest, held.identity)
        held.vouch()

    def _sound_file(self, digest: str, entries: Sequence[TensorEntry]) -> HeldFile | None:
        """The file of this host, if it is there and its bits are right; a damaged one is removed."""
        held = self._files.open(digest)
        if held is None or self._sound.get(digest) == held.identity or held.is_vouched_for:
            return held
        try:
            self._check(held.path, held.read, entries)
        except BlobMissing:
            held.close()
            self._files.discard(digest)
            return None
        self.vouch(digest, held)
        return held

    def _check(self, path: Path, read: Read, entries: Sequence[TensorEntry]) -> None:
        """Raise BlobMissing unless the file holds the bits of `entries`."""
        specs = in_file_order([entry.spec for entry in entries])
        header, places = file_header(specs)
        start = bytearray(len(header))
        read(0, memoryview(start))
        if start != header:
            raise BlobMissing(f"{path} has another header than that of its tensors")
        _compare(path, entries, digests(specs, places, read, self._pool))

    def _make(self, digest: str, ref: BlobRef, entries: tuple[TensorEntry, ...], *, near: bool) -> tuple[HeldFile, int]:
        manifest = self.manifest(ref)
        is_frozen = entries is manifest.frozen
        whole = manifest.blobs[0]
        route = Route((), whole, whole.size) if is_frozen else self.route(ref, near=near)
        try:
            return self._follow(route, digest, entries), route.cost
        except BlobMissing as error:
            if not near:
                self._blame(route, error)
            raise
        finally:
            if isinstance(route.start, HeldFile):
                route.start.close()

    def _follow(self, route: Route, digest: str, entries: Sequence[TensorEntry]) -> HeldFile:
        if isinstance(route.start, BlobRef) and not route.deltas:
            made = self._files.filled(partial(self._blobs.get_file, route.start))
            make = partial(self._check, made.path, made.read, entries)
        else:
            made = self._files.blank()
            make = partial(self._apply, route, entries, made)
        try:
            make()
            held = self._files.take(made.path, digest)
        except OSError as error:
            raise Unavailable(f"weights cannot be written to {made.path}: {error}") from error
        finally:
            made.discard()
        self.vouch(digest, held)
        return held

    def _apply(self, route: Route, entries: Sequence[TensorEntry], made: HeldFile) -> None:
        """Write into `made` the file of `entries`, the start's bits with the deltas of `route`; raises BlobMissing."""
        specs = in_file_order([entry.spec for entry in entries])
        header, places = file_header(specs)
        with ExitStack() as clean:

            def reader(ref: BlobRef) -> BlobReader:
                found = self._blobs.reader(ref)
                clean.callback(found.close)
                return found

            if isinstance(route.start, BlobRef):
                start = _filled_by(reader(route.start))
            elif route.start.begins_with(header):
                start = route.start.read
            else:
                raise BlobMissing(f"the tensors in {route.start.path} do not lie as those of the next version")
            steps = [(reader(one.blobs[-1]), {entry.name: entry for entry in one.trained}) for one in route.deltas]
            size = len(header) + sum(spec.nbytes for spec in specs)
            os.ftruncate(made.handle, size)
            reserve(made.handle, 0, size)
            write_at(made.handle, header, 0)
            found = decode(
                specs, places, start, steps, lambda offset, bits: write_at(made.handle, bits, offset), self._pool
            )
        _compare(made.path, entries, found)

    def _blame(self, route: Route, error: BlobMissing) -> None:
        """Raise BlobMissing for the blob on the way that is torn, or Corrupt when all of them are sound."""
        for blob in route.blobs:
            self._blobs.verify(blob)
        raise Corrupt(f"the published weights contradict their own digests: {error}") from error


def _remember(known: dict[Key, Value], key: Key, value: Value) -> None:
    """The oldest is forgotten for it where there are many."""
    known[key] = value
    while len(known) > _REMEMBERED:
        del known[next(iter(known))]


def _cost(route: Route) -> int:
    return route.cost


def _filled_by(reader: BlobReader) -> Read:
    def read(offset: int, into: memoryview) -> None:
        into[:] = reader.read(offset, len(into))

    return read


def _compare(path: Path, entries: Sequence[TensorEntry], found: Mapping[str, str]) -> None:
    """Raise BlobMissing unless the `found` digests are those of `entries`."""
    for entry in entries:
        if found[entry.name] != entry.digest:
            raise BlobMissing(
                f"the bits of tensor {entry.name!r} in {path} have digest {found[entry.name][:12]}…, "
                f"expected {entry.digest[:12]}…"
            )
