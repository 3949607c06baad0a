"""Every row of data files looked at, as `triune data check` does: one problem a bad file or row."""

from collections.abc import Callable, Iterator, Sequence

from services.data.reading.images import beside
from services.data.reading.sample import LoadImage, read_row
from shared.errors import BadData, BadSample, Unavailable
from shared.samples.files import DataFile, Problem, inspect_files, read_group
from shared.samples.images import decode_image
from shared.samples.places import ANYWHERE, Roots


def check_paths(patterns: Sequence[str], *, roots: Roots = ANYWHERE) -> Iterator[Problem]:
    """All that is wrong with the files that `patterns` name: files first, then rows in order."""
    files, problems = inspect_files(patterns, roots=roots)
    yield from problems
    for file in files:
        yield from check_file(file)


def check_file(file: DataFile, *, advance: Callable[[int], None] | None = None) -> Iterator[Problem]:
    """The bad rows of one file; images are decoded in full, which ingest does not do. `advance` counts rows."""
    load = beside(file.place, ANYWHERE)
    for group, rows in enumerate(file.groups):
        start, done = file.first_row(group), 0
        try:
            for row in read_group(file, group):
                problem = _check_row(row, file, start + done, load)
                done += 1
                if problem is not None:
                    yield problem
                if advance is not None:
                    advance(1)
        except (BadData, Unavailable) as error:
            reason = str(error).removeprefix(f"{file.place}: ")
            yield Problem(str(file.place), None, f"{reason} ({rows - done} rows lost)")


def _check_row(row: dict[str, object], file: DataFile, number: int, load: LoadImage) -> Problem | None:
    try:
        sample = read_row(row, f"{file.place.name}#{number}", load)
        for image in sample.images:
            decode_image(image.data, max_pixels=image.width * image.height)
    except BadSample as error:
        return Problem(str(file.place), number, str(error))
    return None
