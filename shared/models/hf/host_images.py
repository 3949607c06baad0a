"""Prepared images of one host: made by the process that needs one first, read from a file by the others."""

import json
import os
import shutil
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from shared.models.family import PreparedImage
from shared.runtime.logging import get_logger

GIB = 1024**3
LEAST_BYTES = 1 << 16
"""Smaller ones are prepared about as fast as a file is written and read: they are not kept."""
_SHARE_OF_LIMIT = 16


def host_images(folder: Path, job: str, limit_gib: float) -> "HostImages | None":
    """The prepared images of `job` on this host; None: it keeps none."""
    return HostImages(folder, job, int(limit_gib * GIB)) if limit_gib else None


class HostImages:
    """The images of one job in a folder that its processes on this host share, about `limit_bytes` at most.

    The least recently used go first. A file that is missing or torn is an image that has to be prepared, and a folder
    that cannot be written is one that keeps nothing: no job waits or fails for it. Safe to use from several threads.
    """

    def __init__(self, folder: Path, job: str, limit_bytes: int) -> None:
        """Removes what other jobs have left in `folder`, since one job is active at a time."""
        self._folder, self._limit_bytes = folder / job, limit_bytes
        self._lock = threading.Lock()
        self._written = 0
        for other in folder.iterdir() if folder.is_dir() else ():
            if other.name != job:
                shutil.rmtree(other, ignore_errors=True)

    def get(self, name: str) -> PreparedImage | None:
        """The image kept under `name`; None: it is not here."""
        path = self._path(name)
        try:
            with safe_open(path, "np") as file:
                told = json.loads(file.metadata()["image"])
                arrays = {name: np.broadcast_to(file.get_tensor(name), shape) for name, shape in told["shapes"].items()}
            os.utime(path)
        except (OSError, SafetensorError):
            return None
        return PreparedImage(arrays, told["text"], told["tokens"], tuple(told["grid"]))

    def put(self, name: str, image: PreparedImage) -> None:
        """Keep `image` for the other processes."""
        if image.nbytes < LEAST_BYTES:
            return
        path = self._path(name)
        unfinished = path.with_name(f"{uuid.uuid4().hex}.part")
        shapes = {name: array.shape for name, array in image.arrays.items()}
        told = {"text": image.text, "tokens": image.tokens, "grid": image.grid, "shapes": shapes}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {name: _held(array) for name, array in image.arrays.items()}, unfinished, {"image": json.dumps(told)}
            )
            unfinished.replace(path)
            self._count(image.nbytes)
        except (OSError, SafetensorError) as error:
            get_logger().warning("a prepared image is not kept for other processes", error=str(error))
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '-')}.safetensors"

    def _count(self, size: int) -> None:
        with self._lock:
            self._written += size
            if self._written * _SHARE_OF_LIMIT < self._limit_bytes:
                return
            self._written = 0
        self._shrink()

    def _shrink(self) -> None:
        """Leave room for what all processes write before they look again."""
        found = []
        for entry in os.scandir(self._folder):
            with suppress(FileNotFoundError):  # another process removes some, too
                status = entry.stat()
                found.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._limit_bytes * (_SHARE_OF_LIMIT - 2) // _SHARE_OF_LIMIT:
                return
            with suppress(FileNotFoundError):
                Path(path).unlink()
            total -= size


def _held(array: NDArray[Any]) -> NDArray[Any]:
    """`array` without what it repeats by strides of 0."""
    once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)
    return np.ascontiguousarray(array[once]).reshape(array[once].shape)
