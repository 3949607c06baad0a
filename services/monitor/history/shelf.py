"""Records that wait for their step, as they came: appended together, read one by one, thrown away together.

A batch of records is one file, on disk before the transaction that names its places: the store would write each byte of
them four times (log, table, and both again when it goes).
"""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from services.monitor.history.groups import Arrived, Key

FOLDER = ".waiting"
NEAR_BYTES = 64 * 1024 * 1024
"""Waiting groups of so many bytes are in memory as well."""
_WRITTEN_TOGETHER = 512 * 1024
"""So many bytes go to the kernel at once: a tenth of them at a time, a record, takes it half as long again."""


class Spot(NamedTuple):
    """Where a record lies: the number of its file, and its bytes in it."""

    file: int
    offset: int
    length: int


class Shelf:
    """The one writer of a run's waiting records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._last = max(self._files(), default=0)

    def put(self, records: Sequence[bytes]) -> list[Spot]:
        """The place of each of `records`, on disk when it returns; raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        number, offset, spots = self._last + 1, 0, []
        with _path(self._folder, number).open("wb", _WRITTEN_TOGETHER) as file:
            for record in records:
                file.write(record)
                spots.append(Spot(number, offset, len(record)))
                offset += len(record)
            file.flush()
            os.fsync(file.fileno())
        self._last = number
        return spots

    def keep(self, files: Collection[int]) -> None:
        """Throw away all files but these."""
        for number in self._files():
            if number not in files:
                _path(self._folder, number).unlink(missing_ok=True)

    def _files(self) -> list[int]:
        return [int(path.stem) for path in self._folder.glob("*.bin")]


def read_spot(folder: Path, spot: Spot) -> bytes | None:
    """The record at `spot` in the run folder; None when it was thrown away in the meantime."""
    with contextlib.suppress(FileNotFoundError), _path(folder / FOLDER, spot.file).open("rb") as file:
        file.seek(spot.offset)
        return file.read(spot.length)
    return None


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:09d}.bin"


class Near:
    """The newest groups that wait for their step, which is told soon after; bounded, since the shelf has them all."""

    def __init__(self) -> None:
        self._groups: OrderedDict[Key, Arrived] = OrderedDict()
        self._bytes = 0

    def extend(self, groups: Sequence[Arrived]) -> None:
        for group in groups:
            self._groups[group.key] = group._replace(body=b"")
            self._bytes += _size(group)
        while self._bytes > NEAR_BYTES:
            self._bytes -= _size(self._groups.popitem(last=False)[1])

    def get(self, key: Key) -> Arrived | None:
        return self._groups.get(key)

    def drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if (group := self._groups.pop(key, None)) is not None:
                self._bytes -= _size(group)


def _size(group: Arrived) -> int:
    """About the bytes that a group takes in memory."""
    first = group.scored.group.completions[:1]
    return len(group.scored.rewards) * sum(2 * len(c.token_ids) + len(c.text) + 500 for c in first)
