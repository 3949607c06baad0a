"""Checkpoints: folders `step-000010` that are complete or absent.

Each holds `state.json` (where the learner stands, and a manifest of the other files), `model/` (a Hugging Face folder)
and what else the engine writes. A folder is filled under a temporary name, flushed to disk and renamed.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Protocol

import blake3
import msgspec
from safetensors import SafetensorError

from services.learner.checkpoints.progress import Progress
from shared.errors import Corrupt, Unavailable
from shared.runtime.moments import passing

STATE_FILE = "state.json"
_NAME = re.compile(r"step-(\d{6,})")
_TEMPORARY, _REPLACED = ".writing-", ".replaced-"


class FileEntry(msgspec.Struct, frozen=True):
    """A file's size in bytes and its blake3 digest."""

    size: int
    digest: str


class _Document(msgspec.Struct, frozen=True):
    state: Progress
    files: dict[str, FileEntry]


class Checkpoint(msgspec.Struct, frozen=True):
    """A complete checkpoint on disk."""

    folder: Path
    state: Progress


class Saves(Protocol):
    """The part of an engine that is needed here."""

    def save(self, folder: Path) -> None:
        """Write model and training state as files into `folder`, which exists and is empty."""
        ...


def save(engine: Saves, checkpoints: Path, state: Progress, *, keep: int) -> Path:
    """Write the checkpoint of `state.step` below `checkpoints`, drop all but the newest `keep`, return its folder.

    One that exists for the step is replaced. Raises Unavailable when the disk is full or not writable; nothing torn is
    left behind then, and older checkpoints stay.
    """
    target = checkpoints / f"step-{state.step:06d}"
    temporary = checkpoints / f"{_TEMPORARY}{target.name}"
    try:
        temporary.mkdir(parents=True)
    except FileExistsError:  # of a process that was killed
        shutil.rmtree(temporary)
        temporary.mkdir()
    except OSError as error:
        raise Unavailable(f"checkpoint folder {checkpoints} cannot be made: {error}") from error
    try:
        engine.save(temporary)
        document = _Document(state, _manifest(temporary))
        (temporary / STATE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
        _flush(temporary)
        passing("checkpoint-written")
        _put(temporary, target)
    except (OSError, SafetensorError, Unavailable) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise Unavailable(f"checkpoint {target} cannot be written: {error}") from error
    _drop_old(checkpoints, keep)
    return target


def load_latest(checkpoints: Path) -> Checkpoint | None:
    """The newest checkpoint below `checkpoints`, its files checked against its manifest; None when there is none.

    What killed writers have left, which is as large, goes: who loads is the only one that writes here, and has not
    begun to (rank 0 of the learner that holds the lease). Raises Corrupt when the newest one is torn: it is never
    skipped silently, since the journal before it may be gone.
    """
    _undo_replacement(checkpoints)
    for unfinished in checkpoints.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    names = _steps(checkpoints)
    return load_at(checkpoints / names[-1]) if names else None


def load_at(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, its files checked against its manifest; raises Corrupt when it is torn."""
    try:
        document = msgspec.json.decode((folder / STATE_FILE).read_bytes(), type=_Document)
    except (OSError, msgspec.DecodeError) as error:
        raise Corrupt(f"checkpoint {folder} is torn: {STATE_FILE} cannot be read: {error}") from error
    for name, expected in document.files.items():
        path = folder / name
        found = _entry(path) if path.is_file() else None
        if found != expected:
            what = "is missing" if found is None else f"has {found.size} bytes with another digest"
            raise Corrupt(f"checkpoint {folder} is torn: {name} {what}; expected {expected.size} bytes as written")
    return Checkpoint(folder, document.state)


def _manifest(folder: Path) -> dict[str, FileEntry]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _entry(path) for path in files}


def _entry(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, blake3.blake3().update_mmap(path).hexdigest())


def _flush(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(temporary: Path, target: Path) -> None:
    """Rename, with an existing target set aside until the new one is in its place."""
    aside = target.with_name(_REPLACED + target.name)
    if target.exists():
        target.rename(aside)
    temporary.rename(target)
    _fsync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _undo_replacement(checkpoints: Path) -> None:
    """Put back what was set aside by a process that was killed between the two renames."""
    for aside in checkpoints.glob(f"{_REPLACED}step-*"):
        target = checkpoints / aside.name.removeprefix(_REPLACED)
        if target.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(target)


def _drop_old(checkpoints: Path, keep: int) -> None:
    for name in _steps(checkpoints)[:-keep]:
        shutil.rmtree(checkpoints / name, ignore_errors=True)


def _steps(checkpoints: Path) -> list[str]:
    """Names of checkpoint folders, oldest step first."""
    if not checkpoints.is_dir():
        return []
    found = [(int(match[1]), match[0]) for path in checkpoints.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [name for _, name in sorted(found)]
