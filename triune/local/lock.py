"""Whose a deployment's folder is: held by `triune up` from its first moment to its last."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from shared.errors import UserError


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and keep it from other processes: two on one store would destroy it.

    Raises UserError when another has it, or when it cannot be written.
    """
    try:
        lock = _taken(folder)
    except OSError as error:
        sentence = f"{folder} cannot be written ({error.strerror}); name another folder by TRIUNE_RUNS"
        raise UserError(sentence) from error
    with lock:
        yield  # the kernel gives the lock back with the file, also when this process is killed


def _taken(folder: Path) -> TextIO:
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as undo:
        lock = undo.enter_context(_lock(folder).open("a+"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"the servers in {folder} belong to process {lock.read().strip()}, expected them to be stopped"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        undo.pop_all()
    return lock


def is_locked(folder: Path) -> bool:
    """Whether a process holds it now."""
    try:
        with _lock(folder).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(folder: Path) -> Path:
    return folder / "servers.lock"
