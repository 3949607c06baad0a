"""The images that stay with a run folder when the job's blobs go: those of its newest samples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.monitor.analysis.browse import Wanted, find_samples
from services.monitor.history.files import write_bytes
from services.monitor.history.queries import reading
from shared.blobs.port import Blobs
from shared.errors import BlobMissing
from shared.messages import BlobRef

FOLDER = "images"
GROUPS_A_SOURCE = 64
"""So many of each source's newest groups keep their images."""


def keep_images(folder: Path, blobs: Blobs, max_bytes: int) -> int:
    """Copy the images of the newest samples into the run folder, `max_bytes` of them at most; returns their bytes.

    Raises Unavailable when the store does not answer, OSError when the folder cannot be written.
    """
    kept = 0
    for digest in dict.fromkeys(_newest(folder)):
        path = folder / FOLDER / digest
        if not path.exists():
            try:
                data = blobs.get(BlobRef(digest=digest, size=0))
            except BlobMissing:
                continue
            if kept + len(data) > max_bytes:
                break
            write_bytes(path, data)
        kept += path.stat().st_size
    return kept


def kept_image(folder: Path, digest: str) -> bytes | None:
    """An image that was kept; `digest` has 64 hex digits."""
    path = folder / FOLDER / digest
    return path.read_bytes() if path.is_file() else None


def _newest(folder: Path) -> Iterator[str]:
    with reading(folder) as reader:
        sources = list(reader.tasks()) if reader is not None else []
    found: list[list[dict[str, Any]]] = [
        find_samples(folder, Wanted(source=source), GROUPS_A_SOURCE).samples for source in sources if source
    ]
    for place in range(GROUPS_A_SOURCE):  # of each source in turn, the newest first
        for rows in found:
            if place < len(rows):
                yield from (image["digest"] for image in rows[place].get("images") or [])
