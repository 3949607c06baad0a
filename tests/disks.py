"""Small file systems that a test may fill."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """`folder` as a file system of its own of `size` bytes; a plain folder where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def is_small(disk: Path) -> bool:
    """Whether the disk is one of its own, which may be filled."""
    return os.path.ismount(disk)


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """No byte of it is free meanwhile."""
    ballast = disk / "ballast"
    block = b"\0" * (1 << 20)
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(block)
        yield
    finally:
        ballast.unlink(missing_ok=True)
