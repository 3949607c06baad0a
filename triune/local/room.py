"""Whether a disk has room for a server that is to be started on it."""

import os
from pathlib import Path

MIN_FREE_BYTES, MIN_FREE_FILES = 256 << 20, 256
"""No server is started on a disk with less."""


def has_room(folder: Path) -> bool:
    """Whether the disk of `folder` can take a server."""
    disk = os.statvfs(folder)
    lacks_files = disk.f_files > 0 and disk.f_favail < MIN_FREE_FILES  # some file systems do not count them
    return disk.f_bavail * disk.f_frsize >= MIN_FREE_BYTES and not lacks_files


def room(folder: Path) -> str:
    """What there is and what is expected, for a sentence."""
    disk = os.statvfs(folder)
    there = f"{disk.f_bavail * disk.f_frsize >> 20} MB and {disk.f_favail} files free"
    return f"{folder} has {there}, expected {MIN_FREE_BYTES >> 20} MB and {MIN_FREE_FILES} files"
