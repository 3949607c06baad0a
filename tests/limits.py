"""A process that may open no more files, as where the machine has none left."""

import contextlib
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def open_files(most: int) -> Iterator[None]:
    """No descriptor from `most` on can be opened meanwhile; those that are open stay as they are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors() -> set[tuple[int, str]]:
    """What this process has open, once what nobody holds is closed."""
    gc.collect()
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add((int(link.name), str(link.readlink())))
    return found


def first_free() -> int:
    """The lowest descriptor that is not open."""
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    return free
