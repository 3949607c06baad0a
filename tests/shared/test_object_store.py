"""Data on an object store: a real S3 protocol, served by moto in this process."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from services.data.reading.images import beside
from services.data.reading.rows import Ready, Rows
from services.data.reading.sample import read_row
from services.data.reading.sources import index_sources
from shared.blobs.store import BlobStore
from shared.errors import BadData, Unavailable
from shared.runtime.settings import Settings
from shared.samples.files import inspect_files, open_file, open_files, read_group
from shared.samples.places import ANYWHERE, Roots, find, parse_place
from shared.service import connect
from tests.data.rows import math_row, png, write
from tests.object_store import serving, upload
from tests.shared.test_formats import as_jsonl, as_tar
from triune.local.servers import NatsServer, RedisServer


@pytest.fixture
def server() -> Iterator[ThreadedMotoServer]:
    with serving() as server:
        yield server


@pytest.fixture
def bucket(server: ThreadedMotoServer, tmp_path: Path) -> str:
    """A bucket's URI up to its path, with a parquet file, a folder of lines with images, and a tar."""
    (tmp_path / "lines").mkdir()
    (tmp_path / "tar").mkdir()
    write(tmp_path / "train/a.parquet", [math_row(i) for i in range(6)], group=3)
    as_jsonl(tmp_path / "lines", [math_row(i) for i in range(2)])
    as_tar(tmp_path / "tar", [math_row(i) for i in range(2)])
    return upload(server, tmp_path)


def test_parquet_lines_and_tars_are_read_from_an_object_store(bucket: str) -> None:
    for folder, rows in (("train", 6), ("train/*.parquet", 6), ("**/*.jsonl", 2), ("lines", 2), ("tar", 2)):
        (file,) = open_files([bucket % folder])
        assert file.rows == rows and str(file.place).startswith("s3://set-")
        load = beside(file.place, ANYWHERE)
        samples = [read_row(row, "x", load) for group in range(len(file.groups)) for row in read_group(file, group)]
        assert [sample.images[0].data for sample in samples] == [png(shade=number) for number in range(rows)]


def test_rows_of_an_object_store_are_made_ready(bucket: str, tmp_path: Path) -> None:
    (segment, _) = index_sources(open_files([bucket % "train"]))["numbers"]
    rows = Rows(BlobStore((tmp_path / "blobs").as_uri()), 100)
    assert all(isinstance(rows.at(segment, row), Ready) for row in range(3))


def test_what_is_not_there_or_outside_the_roots_is_bad_data(bucket: str) -> None:
    _, problems = inspect_files([bucket % "none", bucket % "train/none.parquet", bucket % "none/*"])
    assert len(problems) == 3 and all("no such file" in problem.reason for problem in problems)
    roots = Roots.of([bucket % "train"])
    assert len(find(bucket % "train/*", roots=roots)) == 1
    for folder in ("lines", "**", "train/../lines/*"):
        with pytest.raises(BadData, match=r"outside the data roots s3://set-.*/train"):
            find(bucket % folder, roots=roots)


def test_a_store_that_is_away_is_unavailable_and_its_key_is_not_shown(server: ThreadedMotoServer, bucket: str) -> None:
    file = open_file(parse_place(bucket % "train/a.parquet"))
    server.stop()
    for read in (lambda: open_files([bucket % "train"]), lambda: list(read_group(file, 0))):
        with pytest.raises(Unavailable) as raised:
            read()
        assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_store_whose_region_nobody_tells_is_waited_for() -> None:
    """Without `?region=` its address alone asks S3, in a process of its own without a network."""
    code = (
        "from shared.blobs.store import BlobStore\n"
        "from shared.errors import Unavailable\n"
        "try:\n"
        "    BlobStore('s3://key:secret@bucket/blobs')\n"
        "except Unavailable as error:\n"
        "    print(error)\n"
    )
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process without a network may not be started here")
    ended = subprocess.run([*alone, sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.startswith("blob store s3://bucket/blobs cannot be opened: When resolving region")
    assert "secret" not in ended.stdout and ended.stdout.count("\n") == 1


LEAVE_HALF = """
import os, sys
from pathlib import Path
from shared.blobs.store import BlobStore
BlobStore(sys.argv[1], spool=Path(sys.argv[2])).writer()
os._exit(9)
"""


def test_what_a_killed_writer_left_in_the_spool_goes_at_the_next_start_and_nothing_else(
    bucket: str, tmp_path: Path
) -> None:
    spool, uri = tmp_path / "spool", bucket % "blobs"
    writer = BlobStore(uri, spool=spool).writer()
    writer.write(b"a delta")
    (mine,) = spool.iterdir()
    ended = subprocess.run([sys.executable, "-c", LEAVE_HALF, uri, str(spool)], timeout=60, check=False)
    assert ended.returncode == 9 and len(list(spool.iterdir())) == 2
    store = BlobStore(uri, spool=spool)
    assert list(spool.iterdir()) == [mine]
    assert store.get(writer.commit()) == b"a delta"
    assert not list(spool.iterdir())


@pytest.mark.nats
@pytest.mark.redis
async def test_a_service_writes_what_an_object_store_is_to_get_into_its_host_s_cache(
    bucket: str, tmp_path: Path, nats_server: NatsServer, redis_server: RedisServer
) -> None:
    """Not into the temporary folder, which is memory in containers."""
    servers = {"nats_url": nats_server.url, "redis_url": redis_server.url}
    settings = Settings(**servers, blobs=bucket % "blobs", runs=tmp_path / "runs", cache=tmp_path / "cache")
    async with connect("learner", settings) as ports:
        writer = ports.blobs.of("job").writer()
        assert len(list((tmp_path / "cache" / "spool").iterdir())) == 1
        writer.abort()
