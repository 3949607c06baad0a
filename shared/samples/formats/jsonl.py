"""JSON Lines: one row a line, with the names of the schema; images are paths or URIs. The groups are runs of lines."""

from collections.abc import Iterator, Sequence
from itertools import islice

from shared.errors import BadData
from shared.samples.formats.layout import Layout, Row, json_object
from shared.samples.places import Place, explained
from shared.samples.schema import REQUIRED, absences, in_one_sentence, without

GROUP_ROWS = 256
"""Lines that are read together."""
READ_BYTES = 1 << 20
MAX_LINE_BYTES = 16 << 20
"""Bytes of one line past which a file is refused."""


def look(place: Place) -> Layout:
    """Reads the whole file once: a line that is no JSON object makes it unusable, and is named.

    So does a column that every row needs and none has.
    """
    counts: list[int] = []
    marks: list[int] = []
    missing = set(REQUIRED)
    try:
        for number, (offset, line) in enumerate(_lines(place, 0)):
            try:
                row = json_object(line)
            except ValueError as error:
                raise BadData(f"line {number + 1} is no JSON object: {error}") from error
            missing = without(missing, row)
            if number % GROUP_ROWS == 0:
                marks.append(offset)
                counts.append(0)
            counts[-1] += 1
    except OSError as error:
        raise explained(error, place) from error
    if counts and missing:
        raise BadData(in_one_sentence(absences(missing)))
    return Layout(tuple(counts), tuple(marks))


def sources(place: Place, layout: Layout) -> Iterator[Sequence[str | None]]:
    every = (json_object(line).get("data_source") for _, line in _lines(place, 0))
    for rows in layout.groups:
        yield list(islice(every, rows))


def rows(place: Place, mark: int, rows: int) -> Iterator[Row]:
    return _group(place, mark, rows)


def _group(place: Place, mark: int, rows: int) -> Iterator[Row]:
    for number, (_, line) in enumerate(_lines(place, mark)):
        if number == rows:
            return
        yield json_object(line)


def _lines(place: Place, start: int) -> Iterator[tuple[int, bytes]]:
    """Every line that is not blank, and the byte at which it begins, from byte `start` on."""
    with place.open() as source:
        source.seek(start)
        rest, offset = b"", start
        while True:
            piece = source.read(READ_BYTES)
            *lines, rest = (rest + piece).split(b"\n") if piece else [rest, b""]
            for line in lines:
                if line.strip():
                    yield offset, line
                offset += len(line) + 1
            if not piece:
                return
            if len(rest) > MAX_LINE_BYTES:
                raise BadData(f"has a line of more than {MAX_LINE_BYTES >> 20} MB; expected one row a line")
