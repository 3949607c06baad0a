"""Small file systems that a test may fill."""

import contextlib
import itertools
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(folder: Path, size: int, inodes: int = 0) -> Iterator[Path]:
    """`folder` as a file system of its own of `size` bytes; a plain folder where mounting is not allowed.

    `inodes`: how many files it may have; 0: any number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "none", str(folder)]
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


@contextlib.contextmanager
def crowded(disk: Path) -> Iterator[None]:
    """It takes no file more meanwhile, though it has room."""
    files = disk / "files"
    files.mkdir()
    try:
        with contextlib.suppress(OSError):
            for number in itertools.count():
                (files / str(number)).touch()
        yield
    finally:
        shutil.rmtree(files)


@contextlib.contextmanager
def without_handles() -> Iterator[None]:
    """This process may open no file more meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
