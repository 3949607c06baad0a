"""WebDataset tars: members of one name make a row, `0001.json` its fields and `0001.jpg` its image (or several).

The json has the names of the schema without `images`. Members of a row stand together, its images in their order. The
groups are runs of rows.
"""

import contextlib
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from shared.errors import BadData
from shared.samples.formats.layout import Layout, Row, json_object
from shared.samples.images import LIMIT_BYTES
from shared.samples.places import Place, explained
from shared.samples.schema import REQUIRED, absences, in_one_sentence, without

GROUP_ROWS = 64
"""Rows that are read together."""
IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")


class _Member(NamedTuple):
    key: str
    suffix: str
    offset: int
    info: tarfile.TarInfo


def look(place: Place) -> Layout:
    """Reads every header once; images are skipped, and fields, once every column that each row needs was seen.

    A column that every row needs and none has makes the file unusable.
    """
    counts: list[int] = []
    marks: list[int] = []
    missing, is_read = set(REQUIRED), False
    try:
        with place.open() as source:
            for number, members in enumerate(_grouped(_members(place, 0))):
                if not any(member.suffix == "json" for member in members):
                    names = ", ".join(member.info.name for member in members)
                    raise BadData(f"row {number} has no json member beside {names}")
                if missing:
                    with contextlib.suppress(ValueError):  # a row that cannot be read is told in its turn
                        missing, is_read = without(missing, _fields(source, members)), True
                if number % GROUP_ROWS == 0:
                    marks.append(members[0].offset)
                    counts.append(0)
                counts[-1] += 1
    except tarfile.TarError as error:
        raise BadData(f"cannot be read as tar: {error}") from error
    except OSError as error:
        raise explained(error, place) from error
    if is_read and missing:
        raise BadData(in_one_sentence(absences(missing)))
    return Layout(tuple(counts), tuple(marks))


def sources(place: Place, layout: Layout) -> Iterator[Sequence[str | None]]:
    every = (row.get("data_source") for row in _rows(place, 0, sum(layout.groups), with_images=False))
    for rows in layout.groups:
        yield list(islice(every, rows))


def rows(place: Place, mark: int, rows: int) -> Iterator[Row]:
    return _rows(place, mark, rows, with_images=True)


def _rows(place: Place, mark: int, rows: int, *, with_images: bool) -> Iterator[Row]:
    with place.open() as source:
        for number, members in enumerate(_grouped(_members(place, mark))):
            if number == rows:
                return
            row = _fields(source, members)
            images = [
                {"bytes": _read(source, member), "path": member.info.name}
                for member in members
                if with_images and member.suffix in IMAGE_SUFFIXES
            ]
            yield {**row, "images": images} if images else row


def _fields(source: Any, members: Sequence[_Member]) -> Row:
    """What the json members say of a row; raises ValueError."""
    row: Row = {}
    for member in members:
        if member.suffix == "json":
            try:
                row |= json_object(_read(source, member))
            except ValueError as error:
                raise ValueError(f"member {member.info.name} is no JSON object: {error}") from error
    return row


def _read(source: Any, member: _Member) -> bytes:
    if member.info.size > LIMIT_BYTES:
        raise ValueError(f"member {member.info.name} has {member.info.size} bytes; at most {LIMIT_BYTES} are read")
    source.seek(member.info.offset_data)
    data: bytes = source.read(member.info.size)
    return data


def _members(place: Place, start: int) -> Iterator[_Member]:
    """The files of the archive from byte `start` on, headers alone."""
    with place.open() as source:
        source.seek(start)
        with tarfile.open(fileobj=source, mode="r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
                if info.isfile():
                    folder, _, name = info.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    yield _Member(f"{folder}/{stem}", suffix.rpartition(".")[2].lower(), info.offset, info)


def _grouped(members: Iterator[_Member]) -> Iterator[list[_Member]]:
    row: list[_Member] = []
    for member in members:
        if row and member.key != row[0].key:
            yield row
            row = []
        row.append(member)
    if row:
        yield row
