"""Rows ready to be published: checked, their images put into the blob store once, only text and digests kept.

A row group is read as a whole and each row keeps some 2 KB, so what is in memory is bounded by `rows_kept`, not by the
data set; images pass through a few at a time.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace
from threading import Lock

from services.data.reading.images import beside
from services.data.reading.sample import LoadImage, Sample, identify, read_row
from services.data.reading.sources import Segment
from shared.blobs.port import Blobs
from shared.errors import BadData, BadSample
from shared.messages import ImageRef
from shared.runtime.logging import get_logger
from shared.runtime.retry import Retry
from shared.samples.files import DataFile, read_group
from shared.samples.places import ANYWHERE, Roots

STORES = "the data files or the blob store"


@dataclass(frozen=True, slots=True)
class Ready:
    """A good row: its sample without the images' bytes, and where those are."""

    sample: Sample
    images: list[ImageRef]


@dataclass(frozen=True, slots=True)
class Unusable:
    """A bad row (its group will be void), and why. A row that could not even be read has no task."""

    task: str
    sample_id: str
    reason: str


class Rows:
    """Rows by place. Every call blocks (files, blob store), so callers use a worker thread; one works at a time."""

    def __init__(
        self,
        blobs: Blobs,
        rows_kept: int,
        roots: Roots = ANYWHERE,
        retry: Retry | None = None,
        verifiers: Collection[str] | None = None,
    ) -> None:
        self._blobs, self._verifiers = blobs, verifiers
        self._roots = roots
        self._rows_kept = rows_kept
        self._retry = retry or Retry()
        self._lock = Lock()
        self._groups: OrderedDict[tuple[DataFile, int], list[Ready | Unusable]] = OrderedDict()

    def at(self, segment: Segment, row: int) -> Ready | Unusable:
        """The row at place `row` of `segment`.

        A file that cannot be read now, and a blob store that cannot take its images, are waited for.
        """
        key = (segment.file, segment.group)
        with self._lock:
            if key not in self._groups:
                self._groups[key] = self._retry.block_until_back(STORES, lambda: self._read(*key))
                self._shrink()
            self._groups.move_to_end(key)
            return self._groups[key][segment.rows[row]]

    def _shrink(self) -> None:
        while len(self._groups) > 1 and sum(map(len, self._groups.values())) > self._rows_kept:
            self._groups.popitem(last=False)

    def _read(self, file: DataFile, group: int) -> list[Ready | Unusable]:
        """All rows of a row group; where the file is torn, the rest of the group is unusable."""
        rows: list[Ready | Unusable] = []
        start, load = file.first_row(group), beside(file.place, self._roots)
        try:
            for row in read_group(file, group):
                rows.append(self._prepare(row, f"{file.place.name}#{start + len(rows)}", load))
        except BadData as error:
            get_logger().error("a row group cannot be read", error=str(error))
            places = range(start + len(rows), start + file.groups[group])
            rows += [Unusable("", f"{file.place.name}#{place}", str(error)) for place in places]
        return rows

    def _prepare(self, row: dict[str, object], place: str, load: LoadImage) -> Ready | Unusable:
        try:
            sample = read_row(row, place, load, self._verifiers)
        except BadSample as error:
            _, task, sample_id = identify(row, place)
            return Unusable(task, sample_id, str(error))
        images = [
            ImageRef(blob=self._blobs.put(image.data), width=image.width, height=image.height)
            for image in sample.images
        ]
        return Ready(replace(sample, images=()), images)
