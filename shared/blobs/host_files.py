"""Files of one host under a digest, made by one process and mapped by several.

A file is complete or absent. Whoever makes or uses one holds a shared lock on it, which ends with its process; only
files that nobody holds are pruned, of which one is kept to be written over: pages that are there are written at half
the price of new ones. Making files is serialised by one lock, so that what several replicas want is made once; and who
has checked a file says so on the file itself, so that no other process reads it through for that.
"""

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BlobMissing, Unavailable

TEMPORARY_S = 3600.0
"""A temporary file older than this that nobody holds was left by a killed process; a younger one may be just begun."""
_GLANCE_S = 0.02
_LOCK, _SPARE = ".making", ".spare"
_VOUCHED = "user.triune.vouched"
"""Extended attribute: which file, as it was when its bits were known to be right."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextlib.contextmanager
def _or_unavailable() -> Iterator[None]:
    """What the disk can't do now is waited for: no room, no inode, no quota, no handle, mounted for reading alone."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"files of weights cannot be kept on this host: {error}") from error


@dataclass(frozen=True)
class HeldFile:
    """A file, complete or in the making, that stays until `close`."""

    path: Path
    handle: int

    def read(self, offset: int, into: memoryview) -> None:
        """Fill `into` from `offset` on; raises BlobMissing when the file ends before."""
        read_into(self.handle, into, offset, self.path)

    def begins_with(self, header: bytes) -> bool:
        """Whether its tensors lie as `header` says."""
        found = bytearray(len(header))
        try:
            self.read(0, memoryview(found))
        except BlobMissing:
            return False
        return found == header

    @property
    def identity(self) -> tuple[int, int, int]:
        """Another file, or one that was written to, has another."""
        found = os.fstat(self.handle)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def vouch(self) -> None:
        """Tell all processes of this host that its bits are right; where files carry no such notes they check."""
        with contextlib.suppress(OSError):
            os.setxattr(self.handle, _VOUCHED, self._note())

    @property
    def is_vouched_for(self) -> bool:
        """Whether somebody has checked it since this host has started, and nobody has written to it since."""
        try:
            return os.getxattr(self.handle, _VOUCHED) == self._note()
        except OSError:
            return False

    def _note(self) -> bytes:
        """What was not on disk yet is not what it was after a crash of the host: that begins another boot."""
        return f"{_BOOT.read_text().strip()} {self.identity}".encode()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.handle)

    def discard(self) -> None:
        """Close one that was in the making; it goes unless it has another name by now."""
        remove_made(self.path)
        self.close()


class HostFiles:
    """The folder; its methods raise Unavailable when it cannot be read or written."""

    @_or_unavailable()
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @_or_unavailable()
    def open(self, digest: str) -> HeldFile | None:
        """The file of `digest`, held; None when it is absent."""
        path = self._path(digest)
        try:
            held = _held(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held.handle), path.stat()):
                return held
        held.close()
        return None

    @_or_unavailable()
    def blank(self) -> HeldFile:
        """A file in the making that is to be written over: of any size and any bytes."""
        path, spare = self._temporary(), self.folder / _SPARE
        with contextlib.suppress(FileNotFoundError):
            os.utime(spare)  # before it has a name that is pruned when it is old
            spare.rename(path)
        return _held(path, os.O_RDWR | os.O_CREAT)

    @_or_unavailable()
    def filled(self, fill: Callable[[Path], None]) -> HeldFile:
        """A file in the making that `fill` makes under the new name that it is given."""
        path = self._temporary()
        with contextlib.ExitStack() as undo:
            undo.callback(remove_made, path)
            fill(path)
            made = _held(path, os.O_RDONLY)
            undo.pop_all()
        return made

    @_or_unavailable()
    def take(self, made: Path, digest: str) -> HeldFile:
        """Bring `made` under its digest and hold it."""
        path = self._path(digest)
        with contextlib.ExitStack() as undo:
            held = _held(made, os.O_RDONLY)
            undo.callback(held.close)
            made.rename(path)
            undo.pop_all()
        remove_made(made)  # two names of one file stay two names when one is renamed to the other
        return HeldFile(path, held.handle)

    @_or_unavailable()
    def discard(self, digest: str) -> None:
        """Remove the name; who holds the file keeps it."""
        self._path(digest).unlink(missing_ok=True)

    @contextlib.contextmanager
    def making(self, limit_s: float) -> Iterator[None]:
        """Alone on this host; raises Unavailable when others are at it for longer than `limit_s`."""
        until = time.monotonic() + limit_s
        with _or_unavailable():
            handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with _or_unavailable():
                while not _locked(handle):
                    if time.monotonic() >= until:
                        raise Unavailable(
                            f"another process has been writing weights to {self.folder} for {limit_s:g} s"
                        )
                    time.sleep(_GLANCE_S)
            yield
        finally:
            os.close(handle)

    def prune(self, keep: int) -> None:
        """Remove what nobody holds, but for the newest `keep` files, and what killed processes have left.

        What can't be removed now goes at a later call.
        """
        whole, temporary = list[tuple[float, Path]](), list[tuple[float, Path]]()
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                with contextlib.suppress(OSError):  # another process prunes, too
                    (temporary if path.name.startswith(".") else whole).append((path.stat().st_mtime, path))
        for _, path in sorted(whole, reverse=True)[keep:]:
            remove_unheld(path, self.folder / _SPARE)
        for made_at, path in temporary:
            if path.name != _LOCK and made_at < time.time() - TEMPORARY_S:
                remove_unheld(path)

    def _temporary(self) -> Path:
        return self.folder / f".{uuid.uuid4().hex}"

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.safetensors"


def read_into(handle: int, into: memoryview, offset: int, path: Path) -> None:
    """Fill `into` from `offset` of an open file; raises BlobMissing when it ends before."""
    there = 0
    while there < len(into):
        try:
            count = os.preadv(handle, [into[there:]], offset + there)
        except OSError as error:
            raise Unavailable(f"weights cannot be read from {path}: {error}") from error
        if count == 0:
            raise BlobMissing(f"{path} ends at byte {offset + there}, expected {offset + len(into)} bytes at least")
        there += count


def remove_made(path: Path) -> None:
    """Remove a name of a file in the making, if it is there; one that can't be removed now is pruned once it is old."""
    with contextlib.suppress(OSError):
        path.unlink()


def hold(handle: int) -> None:
    """Tell `remove_unheld` that an open file is in use, until it is closed, in whatever way its process ends."""
    fcntl.flock(handle, fcntl.LOCK_SH)  # waits for a pruner at most, which is quick


def remove_unheld(path: Path, spare: Path | None = None) -> None:
    """Remove a file that nobody holds, if it can be; where no blob is a second name of it, it becomes `spare`."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            if not _locked(handle):
                return
            if spare is not None and os.fstat(handle).st_nlink == 1:
                path.rename(spare)
            else:
                path.unlink()
        finally:
            os.close(handle)


def _held(path: Path, flags: int) -> HeldFile:
    held = HeldFile(path, os.open(path, flags, 0o666))
    with contextlib.ExitStack() as undo:
        undo.callback(held.close)
        hold(held.handle)
        undo.pop_all()
    return held


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
