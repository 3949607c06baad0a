"""The blob store: one URI opened with pyarrow.fs, `file:///…` on one host or a shared volume, `s3://…` across hosts.

A blob lies under `<first two digits>/<digest>`, and `refs/<job>/<digest>` says whose it is. On a file system it is
written under `tmp/` and renamed, so a killed writer leaves nothing under a digest; an object store shows an object only
when it is whole.
"""

import contextlib
import copy
import errno
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from pyarrow import ArrowException
from pyarrow import fs as arrow_fs

from shared.blobs.host_files import remove_unheld
from shared.blobs.streams import PIECE, AheadReader, SpooledWriter, copy_stream, link_or_copy
from shared.errors import BlobMissing, Unavailable, UserError
from shared.messages import BlobRef

TEMPORARY_S = 3600.0
"""A temporary file older than this was left by a killed writer."""
_SPOOL = "triune-spool"
_MANY_BYTES = 1 << 20
"""From this size on hashing uses several threads."""


@dataclass(frozen=True)
class BlobUsage:
    """How many blobs there are, and their bytes together."""

    blobs: int
    bytes: int


class BlobStore:
    """`shared.blobs.port.Blobs`; with `durable` a blob is on disk, not only in the page cache, when `put` returns.

    `spool`: a folder of this host, with room for large blobs, where they are written before an object store takes them;
    None: below the system's temporary folder.

    Raises UserError for a URI that names no store, Unavailable when it cannot be reached.
    """

    def __init__(self, uri: str, *, durable: bool = False, spool: Path | None = None) -> None:
        self._place = _place(uri)
        try:
            self._fs, self._root = arrow_fs.FileSystem.from_uri(uri)
        except (ValueError, ArrowException):
            raise UserError(
                f"blob store {self._place!r} is no address that pyarrow.fs opens, expected file:///… or s3://…"
            ) from None  # the cause quotes the whole address, keys included
        except OSError as error:  # it asks S3 for the bucket's region if the address names none
            raise Unavailable(f"blob store {self._place} cannot be opened: {_sentence(error)}") from error
        self._is_local = isinstance(self._fs, arrow_fs.LocalFileSystem)
        self._durable = durable and self._is_local
        self._spool = Path(self._root) / "tmp" if self._is_local else spool or Path(tempfile.gettempdir()) / _SPOOL
        self._folders: set[str] = set()
        self._job: str | None = None
        self._marked: set[str] = set()
        try:
            self._fs.create_dir(self._root, recursive=True)
            self._clean()
        except OSError as error:
            raise Unavailable(f"blob store {self._place} cannot be opened: {_sentence(error)}") from error

    def of(self, job: str) -> "BlobStore":
        mine = copy.copy(self)
        mine._job, mine._marked = job, set()
        return mine

    def put(self, data: bytes | memoryview) -> BlobRef:
        self._check_there()
        ref = BlobRef(digest=_digest(data), size=len(data))
        path = self._path(ref)
        try:
            self._mark(ref)
            if self._size(path) == ref.size:
                return ref
            self._make_folder(path.rsplit("/", 1)[0])
            self._write(path, data)
        except OSError as error:
            raise Unavailable(
                f"blob store {self._place} cannot take {ref.size} bytes ({path}): {_sentence(error)}"
            ) from error
        return ref

    def get(self, ref: BlobRef) -> bytes:
        with self._reading(ref), self._fs.open_input_file(self._path(ref)) as source:
            data: bytes = source.read()
        if _digest(data) != ref.digest:
            raise self._torn(ref, len(data))
        return data

    def writer(self) -> SpooledWriter:
        self._check_there()
        return SpooledWriter(self._spool, self._place, self._take)

    def reader(self, ref: BlobRef) -> AheadReader:
        with self._reading(ref):
            return AheadReader(self._fs.open_input_file(self._path(ref)), ref, self._place)

    def put_file(self, path: Path, digest: str | None = None) -> BlobRef:
        self._check_there()
        try:
            ref = BlobRef(digest=digest or _file_digest(path), size=path.stat().st_size)
            self._take(path, ref)
        except OSError as error:
            raise Unavailable(f"blob store {self._place} cannot take {path}: {_sentence(error)}") from error
        return ref

    def get_file(self, ref: BlobRef, path: Path) -> None:
        with self._reading(ref):
            if self._is_local:
                link_or_copy(Path(self._path(ref)), path)
                return
            with self._fs.open_input_stream(self._path(ref)) as source, path.open("xb") as target:
                copy_stream(source, target)

    def verify(self, ref: BlobRef) -> None:
        hasher, size = blake3(), 0
        with self._reading(ref), self._fs.open_input_stream(self._path(ref)) as source:
            while piece := source.read(_MANY_BYTES):
                hasher.update(piece)
                size += len(piece)
        if hasher.hexdigest() != ref.digest:
            raise self._torn(ref, size)

    def _torn(self, ref: BlobRef, size: int) -> BlobMissing:
        """Remove it, else the next `put` would take it for a sound copy; its marks stay for that."""
        with self._deleting(ref):
            self._remove(self._path(ref))
        return BlobMissing(f"blob {ref.digest} in {self._place} is torn: {size} bytes, expected {ref.size}")

    @contextlib.contextmanager
    def _reading(self, ref: BlobRef) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            self._check_there()
            raise BlobMissing(f"blob {ref.digest} is not in {self._place}") from None
        except OSError as error:
            path = self._path(ref)
            raise Unavailable(f"blob store {self._place} cannot be read ({path}): {_sentence(error)}") from error

    def _check_there(self) -> None:
        """A folder that was there when the store was opened is a share that is away, not a store without blobs."""
        if self._is_local and not Path(self._root).is_dir():
            raise Unavailable(f"blob store {self._place} is away: its folder is not there")

    def has(self, ref: BlobRef) -> bool:
        self._check_there()
        try:
            return self._size(self._path(ref)) == ref.size
        except OSError as error:
            raise Unavailable(f"blob store {self._place} cannot be read: {_sentence(error)}") from error

    def delete(self, ref: BlobRef) -> None:
        with self._deleting(ref):
            path = self._path(ref)
            if self._job is not None and self._is_local:
                self._release(ref.digest, self._job)
            elif self._job is None or not self._is_of_others(ref.digest, self._job):
                # Not set aside first, which an object store would do by a copy: what another job puts just now may go.
                self._remove(path)
            if self._job is not None:  # last: a killed process leaves no blob without an owner
                self._marked.discard(ref.digest)
                self._remove(f"{self._root}/refs/{self._job}/{ref.digest}")

    @contextlib.contextmanager
    def _deleting(self, ref: BlobRef) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"blob store {self._place} cannot delete {ref.digest}: {_sentence(error)}") from error

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(path)

    def forget(self, job: str) -> int:
        refs = f"{self._root}/refs"
        try:
            count = sum(self._release(digest, job) for digest in self._names(f"{refs}/{job}"))
            if job in self._names(refs):
                self._fs.delete_dir(f"{refs}/{job}")
        except OSError as error:
            raise Unavailable(f"blob store {self._place} cannot forget job {job}: {_sentence(error)}") from error
        return count

    def _release(self, digest: str, job: str) -> bool:
        """Delete the blob unless a job other than `job` has it too.

        It is set aside before the marks that decide are read, and the jobs are listed anew then: another job marks a
        blob before it looks whether it is there, so either its mark is seen here, or the blob is not seen there and is
        written anew. A blob that another job has already is never set aside: its readers would miss it.
        """
        if self._is_of_others(digest, job):
            return False
        path, aside = f"{self._root}/{digest[:2]}/{digest}", f"{self._root}/tmp/{uuid.uuid4().hex}"
        self._make_folder(f"{self._root}/tmp")
        try:
            self._fs.move(path, aside)
        except FileNotFoundError:
            return False
        if self._is_of_others(digest, job):
            self._fs.move(aside, path)
            return False
        self._fs.delete_file(aside)
        return True

    def _is_of_others(self, digest: str, job: str) -> bool:
        refs = f"{self._root}/refs"
        marks = [f"{refs}/{owner}/{digest}" for owner in self._names(refs) if owner != job]
        return any(info.type == arrow_fs.FileType.File for info in self._fs.get_file_info(marks))

    def _mark(self, ref: BlobRef) -> None:
        """Note whose blob it is, before it is there: a killed writer leaves none without an owner."""
        if self._job is None or ref.digest in self._marked:
            return
        folder = f"{self._root}/refs/{self._job}"
        self._make_folder(folder)
        try:
            self._touch(f"{folder}/{ref.digest}")
        except FileNotFoundError:  # another process has forgotten the job
            self._fs.create_dir(folder, recursive=True)
            self._touch(f"{folder}/{ref.digest}")
        self._marked.add(ref.digest)

    def _touch(self, path: str) -> None:
        with self._fs.open_output_stream(path):
            pass

    def _names(self, folder: str) -> list[str]:
        selector = arrow_fs.FileSelector(folder, allow_not_found=True)
        return [info.base_name for info in self._fs.get_file_info(selector)]

    def usage(self) -> BlobUsage:
        """Count the blobs; it lists the whole store, so not often."""
        selector = arrow_fs.FileSelector(self._root, recursive=True)
        files = [info for info in self._fs.get_file_info(selector) if info.type == arrow_fs.FileType.File]
        others = (f"{self._root}/tmp/", f"{self._root}/refs/")
        blobs = [info for info in files if not info.path.startswith(others)]
        return BlobUsage(len(blobs), sum(info.size for info in blobs))

    def _path(self, ref: BlobRef) -> str:
        if len(ref.digest) != 64 or not ref.digest.isalnum():
            raise BlobMissing(f"{ref.digest!r} is no digest, expected 64 hexadecimal digits")
        return f"{self._root}/{ref.digest[:2]}/{ref.digest}"

    def _size(self, path: str) -> int | None:
        info = self._fs.get_file_info(path)
        return info.size if info.type == arrow_fs.FileType.File else None

    def _make_folder(self, folder: str) -> None:
        if folder not in self._folders:
            self._fs.create_dir(folder, recursive=True)
            self._folders.add(folder)

    def _write(self, path: str, data: bytes | memoryview) -> None:
        if not self._is_local:
            with self._fs.open_output_stream(path) as target:
                target.write(data)
            return
        self._make_folder(f"{self._root}/tmp")
        temporary = f"{self._root}/tmp/{uuid.uuid4().hex}"
        try:
            with self._fs.open_output_stream(temporary) as target:
                target.write(data)
            if self._durable:
                _sync(temporary)
            self._fs.move(temporary, path)
            if self._durable:
                _sync(path.rsplit("/", 1)[0])
        except OSError:
            with contextlib.suppress(OSError):
                self._fs.delete_file(temporary)
            raise

    def _take(self, source: Path, ref: BlobRef) -> None:
        """Bring a local file, whose bytes have `ref`'s digest, under its name; a sound copy is kept."""
        path = self._path(ref)
        self._mark(ref)
        if self._size(path) == ref.size:
            return
        self._make_folder(path.rsplit("/", 1)[0])
        if not self._is_local:
            with source.open("rb") as origin, self._fs.open_output_stream(path) as target:
                copy_stream(origin, target)
            return
        self._make_folder(f"{self._root}/tmp")
        temporary = Path(self._root) / "tmp" / uuid.uuid4().hex
        try:
            link_or_copy(source, temporary)
            if self._durable:
                _sync(str(temporary))
            temporary.rename(path)
            if self._durable:
                _sync(path.rsplit("/", 1)[0])
        finally:
            temporary.unlink(missing_ok=True)

    def _clean(self) -> None:
        """Remove what killed writers have left: from this host's spool at once, from what others write, too, by age.

        A writer that has just begun and does not hold its file yet gets Unavailable at its end, and begins anew.
        """
        if not self._is_local and self._spool.is_dir():
            for path in self._spool.iterdir():
                remove_unheld(path)
        selector = arrow_fs.FileSelector(f"{self._root}/tmp", allow_not_found=True)
        for info in self._fs.get_file_info(selector):
            if info.mtime is not None and info.mtime.timestamp() < time.time() - TEMPORARY_S:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.delete_file(info.path)


def _place(uri: str) -> str:
    """The address for people: without the keys and options that a URI may carry."""
    address, _, _ = uri.partition("?")
    scheme, mark, rest = address.partition("://")
    return scheme + mark + rest.rpartition("@")[2]


def _digest(data: bytes | memoryview) -> str:
    threads = blake3.AUTO if len(data) >= _MANY_BYTES else 1
    return blake3(data, max_threads=threads).hexdigest()


def _file_digest(path: Path) -> str:
    """Read a piece at a time: a mapped file would count as this process's memory."""
    hasher = blake3(max_threads=blake3.AUTO)
    with path.open("rb") as source:
        while piece := source.read(PIECE):
            hasher.update(piece)
    return hasher.hexdigest()


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sentence(error: OSError) -> str:
    return "no space left on the device" if error.errno == errno.ENOSPC else str(error)
