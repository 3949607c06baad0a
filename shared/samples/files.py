"""Data files of a job: found, looked at without decoding a row, counted, and read by group.

Which format a file has is told by its name: `.jsonl`, `.arrow`, `.tar`, and parquet for every other. Of a folder those
files below it count that end in `.parquet`; if there is none, in `.arrow`; then in `.jsonl`; then in `.tar`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

from shared.errors import BadData, Unavailable
from shared.messages import source_name
from shared.samples.formats import arrow, jsonl, parquet, tar
from shared.samples.formats.layout import Format, Layout, Row
from shared.samples.places import ANYWHERE, READ_ERRORS, Place, Roots, find, first_line, is_away

SUFFIXES = {".parquet": parquet, ".arrow": arrow, ".jsonl": jsonl, ".tar": tar}
"""Format by the end of a file's name; of a folder the first that is there."""


@dataclass(frozen=True)
class DataFile:
    """A readable file in the schema: `groups` are the rows of each group, `marks` where the groups begin."""

    place: Place
    groups: tuple[int, ...]
    marks: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.groups)

    @property
    def format(self) -> Format:
        return format_of(self.place)

    def first_row(self, group: int) -> int:
        """The place in the file of the group's first row."""
        return sum(self.groups[:group])

    def fingerprint(self) -> str:
        """Differs when the file has other rows, as far as its size and its groups tell; no row is read."""
        size = self.place.info().size
        return blake2b(f"{size}/{self.groups}/{self.marks}".encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file, or with one of its rows (counted from 0)."""

    file: str
    row: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}" if self.row is None else f"{self.file}: row {self.row}: {self.reason}"


def format_of(place: Place) -> Format:
    module = next((module for suffix, module in SUFFIXES.items() if place.name.endswith(suffix)), parquet)
    return cast(Format, module)


def open_files(patterns: Sequence[str], *, roots: Roots = ANYWHERE) -> list[DataFile]:
    """The files that `patterns` name, in a fixed order; raises BadData, one line for every bad file or pattern."""
    files, problems = inspect_files(patterns, roots=roots)
    if problems:
        raise BadData("\n".join(map(str, problems)))
    return files


def inspect_files(patterns: Sequence[str], *, roots: Roots = ANYWHERE) -> tuple[list[DataFile], list[Problem]]:
    """The good files that `patterns` name, each once, and one problem for each file or pattern that cannot be used.

    Raises Unavailable when a file system does not answer.
    """
    places: dict[Place, None] = {}
    files, problems = [], []
    for pattern in patterns:
        try:
            places |= dict.fromkeys(find(pattern, roots=roots, suffixes=tuple(SUFFIXES)))
        except BadData as error:
            problems.append(Problem(pattern, None, str(error)))
    for place in places:
        try:
            files.append(_look(place))
        except BadData as error:
            problems.append(Problem(str(place), None, str(error)))
    return files, problems


def open_file(place: Place) -> DataFile:
    """The file, looked at; raises BadData: unreadable, no rows, a column missing or of another type."""
    try:
        return _look(place)
    except BadData as error:
        raise BadData(f"{place}: {error}") from error


def _look(place: Place) -> DataFile:
    layout = format_of(place).look(place)
    if not sum(layout.groups):
        raise BadData("has no rows")
    return DataFile(place, layout.groups, layout.marks)


def file_sources(file: DataFile) -> Iterator[list[str]]:
    """`source_name` of every row, group by group; of parquet that column alone is read. Raises BadData, Unavailable."""
    done: list[int] = []
    with _reading(file, lambda: len(done)):
        for values in file.format.sources(file.place, Layout(file.groups, file.marks)):
            names = {value: source_name(value) for value in set(values)}
            yield [names[value] for value in values]
            done.append(len(values))


def read_group(file: DataFile, group: int) -> Iterator[Row]:
    """The rows of one group in order, as they stand in the file; `cast_row` brings them into the schema.

    Raises BadData where the file is torn or of another format, Unavailable where the system cannot read it now (a stale
    handle, a disk, a share or an object store that is away).
    """
    with _reading(file, lambda: group):
        yield from file.format.rows(file.place, file.marks[group], file.groups[group])


@contextmanager
def _reading(file: DataFile, group: Callable[[], int]) -> Iterator[None]:
    try:
        yield
    except READ_ERRORS as error:
        sentence = f"{file.place}: row group {group()} cannot be read: {first_line(error)}"
        if is_away(error, file.place):
            raise Unavailable(sentence) from error
        raise BadData(sentence) from error


def count_rows(files: Iterable[DataFile]) -> dict[str, int]:
    """Rows by source name, over all files; raises BadData."""
    counts: Counter[str] = Counter()
    for file in files:
        for names in file_sources(file):
            counts.update(names)
    return dict(sorted(counts.items()))
