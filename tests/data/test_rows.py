"""Rows made ready: images in the blob store once, bad rows kept with their reason, memory bounded."""

import copy
import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from services.data.reading.rows import STORES, Ready, Rows, Unusable
from services.data.reading.sources import index_sources
from shared.blobs.store import BlobStore
from shared.runtime.retry import Retry
from shared.samples.files import open_files
from tests.data.rows import boxes_row, broken_row, math_row, write
from tests.fakes import AwayBlobs


def test_images_are_stored_once_and_only_their_digests_kept(tmp_path: Path) -> None:
    same = [copy.deepcopy(math_row(i)) for i in range(4)]
    for row in same:
        row["images"] = same[0]["images"]
    write(tmp_path / "d/a.parquet", same)
    blobs = BlobStore((tmp_path / "blobs").as_uri())
    (segment,) = index_sources(open_files([str(tmp_path / "d")]))["numbers"]
    ready = [Rows(blobs, 100).at(segment, row) for row in range(4)]
    assert all(isinstance(row, Ready) and row.sample.images == () for row in ready)
    assert len({row.images[0].blob.digest for row in ready if isinstance(row, Ready)}) == 1
    assert blobs.usage().blobs == 1
    first = ready[0]
    assert isinstance(first, Ready)
    assert blobs.get(first.images[0].blob) == same[0]["images"][0]["bytes"]
    assert (first.images[0].width, first.images[0].height) == (28, 28)


def test_a_bad_row_is_kept_with_its_reason_and_its_neighbours_survive(tmp_path: Path) -> None:
    write(tmp_path / "d/a.parquet", [math_row(0), broken_row(1), math_row(2)])
    rows = Rows(BlobStore((tmp_path / "blobs").as_uri()), 100)
    (segment,) = index_sources(open_files([str(tmp_path / "d")]))["numbers"]
    assert isinstance(rows.at(segment, 0), Ready) and isinstance(rows.at(segment, 2), Ready)
    assert rows.at(segment, 1) == Unusable("counting", "numbers/1", "image 0: the image has no bytes")


def test_a_torn_row_group_makes_its_rows_unusable(tmp_path: Path) -> None:
    path = write(tmp_path / "d/a.parquet", [math_row(i) for i in range(3)])
    (segment,) = index_sources(open_files([str(tmp_path / "d")]))["numbers"]
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    row = Rows(BlobStore((tmp_path / "blobs").as_uri()), 100).at(segment, 2)
    assert isinstance(row, Unusable) and "row group 0 cannot be read" in row.reason and row.sample_id == "a.parquet#2"


def test_a_file_that_is_away_for_a_moment_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try breaks off behind a row, as on a share whose handle went stale; the second finds no file."""
    write(tmp_path / "d/a.parquet", [math_row(i) for i in range(3)])
    (segment,) = index_sources(open_files([str(tmp_path / "d")]))["numbers"]
    faults = [OSError(errno.ESTALE, "Stale file handle"), FileNotFoundError(errno.ENOENT, "No such file")]
    read = pq.ParquetFile.iter_batches

    def break_off(*args: Any, **options: Any) -> Iterator[Any]:
        if faults:
            yield next(read(args[0], 1, **options))
            raise faults.pop(0)
        yield from read(*args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", break_off)
    rows = Rows(BlobStore((tmp_path / "blobs").as_uri()), 100, retry=Retry(longest_pause_s=0.01))
    ready = [rows.at(segment, row) for row in range(3)]
    assert [row.sample.identity.sample_id for row in ready if isinstance(row, Ready)] == [
        "numbers/0", "numbers/1", "numbers/2",
    ]  # fmt: skip
    assert not faults


def test_a_file_that_is_away_is_waited_for_and_is_no_fault_of_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "d/a.parquet", [math_row(i) for i in range(3)])
    (segment,) = index_sources(open_files([str(tmp_path / "d")]))["numbers"]
    away, retry = path.rename(tmp_path / "away"), Retry(longest_pause_s=0.01)
    rows = Rows(BlobStore((tmp_path / "blobs").as_uri()), 100, retry=retry)
    with ThreadPoolExecutor(1) as thread:
        row = thread.submit(rows.at, segment, 2)
        while not retry.waiting_for:
            assert not row.done()
        assert retry.waiting_for == STORES
        away.rename(path)
        assert isinstance(row.result(5.0), Ready)
    assert retry.waiting_for == ""


def test_images_wait_for_a_blob_store_that_is_away(tmp_path: Path) -> None:
    write(tmp_path / "d/a.parquet", [boxes_row(i) for i in range(2)])
    (segment,) = index_sources(open_files([str(tmp_path / "d")]))["boxes"]
    blobs = AwayBlobs(tries=9)
    row = Rows(blobs, 100, retry=Retry(longest_pause_s=0.01)).at(segment, 1)
    assert isinstance(row, Ready)
    assert blobs.tries == 0


def test_groups_past_the_bound_are_let_go_and_read_again(tmp_path: Path) -> None:
    write(tmp_path / "d/a.parquet", [math_row(i) for i in range(12)], group=4)
    blobs = BlobStore((tmp_path / "blobs").as_uri())
    segments = index_sources(open_files([str(tmp_path / "d")]))["numbers"]
    rows = Rows(blobs, rows_kept=8)
    ids = [rows.at(segments[group], 0) for group in (0, 1, 2, 0, 1, 2)]
    assert [row.sample.identity.sample_id for row in ids if isinstance(row, Ready)] == [
        "numbers/0", "numbers/4", "numbers/8", "numbers/0", "numbers/4", "numbers/8",
    ]  # fmt: skip
    assert blobs.usage().blobs == 12
