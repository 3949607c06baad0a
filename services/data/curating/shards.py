"""The rows that passed the rules, in files of a few hundred: one evaluation each, and what is done stays done."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.data.checking.duplicates import difference_hash
from services.data.converting.reasons import LeftOut
from services.data.converting.rows import Draft, Row
from services.data.converting.writer import resume, write
from services.data.curating.rules import why_left_out
from services.data.reading.images import beside
from services.data.reading.sample import LoadImage, read_row
from shared.errors import BadSample
from shared.samples.files import DataFile, read_group
from shared.samples.images import skim_image
from shared.samples.places import ANYWHERE
from shared.samples.schema import cast_row

SHARD_ROWS = 1024
"""Rows of one evaluation: its records must fit in the journal together."""
WHOLE = "whole"
"""Lies beside shards that are all there."""


@dataclass(frozen=True)
class Shards:
    """Files in `folder`, in order, and why rows were left out of them."""

    folder: Path
    files: list[Path]
    left_out: Counter[str]


def write_shards(files: Sequence[DataFile], folder: Path, *, rules: bool, duplicates: bool) -> Shards:
    """Rows that `rules` let stay, each image and question once unless `duplicates`.

    What was written whole for the same files is taken as it is; what was not is begun anew, since a row is judged by
    the rows before it. Raises UserError when `folder` holds the shards of other files.
    """
    origin = json.dumps([[str(file.place), file.fingerprint()] for file in files] + [[rules, duplicates]])
    whole = folder / WHOLE
    if folder.exists() and not whole.exists():
        shutil.rmtree(folder)
    if whole.exists():
        done = resume(folder, origin)
    else:
        drafts = _drafts(files, rules, None if duplicates else set())
        done = write(drafts, folder, origin=origin, name="shard", advance=lambda _: None, file_rows=SHARD_ROWS)
        if done.rows:  # without a row it is of no files
            whole.touch()
    return Shards(folder, [folder / name for name in done.files], Counter(done.left_out.told()))


def _drafts(files: Sequence[DataFile], rules: bool, seen: set[int] | None) -> Iterator[Draft]:
    for file in files:
        load = beside(file.place, ANYWHERE)
        for group in range(len(file.groups)):
            for number, row in enumerate(read_group(file, group)):
                place = f"{file.place.name}#{file.first_row(group) + number}"
                yield Draft(place, partial(_row, row, place, load, rules, seen))


def _row(row: Row, place: str, load: LoadImage, rules: bool, seen: set[int] | None) -> Row:
    try:
        sample = read_row(row, place, load)
    except BadSample as error:
        raise LeftOut("a row that cannot be used", error) from error
    reason = why_left_out(sample) if rules else None
    if reason is None and seen is not None and sample.images:
        reason = _seen_before([image.data for image in sample.images], sample.turns[-1].content, seen)
    if reason is not None:
        raise BadSample(reason)
    return cast_row(row) | {"images": [{"bytes": image.data, "path": None} for image in sample.images]}


def _seen_before(images: Sequence[bytes], question: str, seen: set[int]) -> str | None:
    """Rows with the same question about images that look the same are one row."""
    hashes = [difference_hash(skim_image(data)) for data in images]
    key = hash((question, *hashes))
    if key in seen:
        return "the question and what its image looks like were there before"
    seen.add(key)
    return None
