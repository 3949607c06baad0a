"""Blobs on a file system: whole or absent, checked at every read."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blake3 import blake3

from shared.blobs.store import TEMPORARY_S, BlobStore, BlobUsage
from shared.errors import BlobMissing, Unavailable, UserError
from shared.messages import BlobRef
from tests.disks import without_handles

DATA = b"three little pixels"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blob store"  # a space, as people have in their paths


@pytest.fixture
def store(folder: Path) -> BlobStore:
    return BlobStore(folder.as_uri())


def place(folder: Path, ref: BlobRef) -> Path:
    return folder / ref.digest[:2] / ref.digest


def test_a_blob_comes_back_under_its_digest(store: BlobStore, folder: Path) -> None:
    ref = store.put(DATA)
    assert ref == BlobRef(digest=blake3(DATA).hexdigest(), size=19)
    assert store.get(ref) == DATA
    assert place(folder, ref).read_bytes() == DATA


@pytest.mark.parametrize("data", [b"", bytes(3 << 20)], ids=["empty", "large"])
def test_blobs_of_any_size_come_back(store: BlobStore, data: bytes) -> None:
    assert store.get(store.put(memoryview(data))) == data


def test_a_sound_copy_is_kept(store: BlobStore, folder: Path) -> None:
    ref = store.put(DATA)
    before = place(folder, ref).stat()
    assert store.put(DATA) == ref
    assert place(folder, ref).stat().st_ino == before.st_ino


def test_a_torn_blob_is_missing_and_written_again(store: BlobStore, folder: Path) -> None:
    ref = store.put(DATA)
    place(folder, ref).write_bytes(DATA[:5])
    with pytest.raises(BlobMissing, match="is torn: 5 bytes, expected 19"):
        store.get(ref)
    store.put(DATA)
    assert store.get(ref) == DATA


def test_a_put_repairs_a_torn_blob_that_nobody_has_read(store: BlobStore, folder: Path) -> None:
    ref = store.put(DATA)
    place(folder, ref).write_bytes(DATA[:5])
    store.put(DATA)
    assert store.get(ref) == DATA


def test_a_flipped_bit_is_found(store: BlobStore, folder: Path) -> None:
    ref = store.put(DATA)
    place(folder, ref).write_bytes(bytes([DATA[0] ^ 1]) + DATA[1:])
    with pytest.raises(BlobMissing, match=ref.digest):
        store.get(ref)
    store.put(DATA)
    assert store.get(ref) == DATA


def test_an_absent_blob_is_missing_and_its_deletion_fine(store: BlobStore) -> None:
    ref = store.put(DATA)
    store.delete(ref)
    store.delete(ref)
    with pytest.raises(BlobMissing, match="is not in"):
        store.get(ref)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "a/b" * 21 + "a"])
def test_a_digest_that_is_a_path_is_refused(store: BlobStore, digest: str) -> None:
    with pytest.raises(BlobMissing, match="is no digest"):
        store.get(BlobRef(digest=digest, size=1))


def test_usage_counts_blobs_and_bytes(store: BlobStore) -> None:
    assert store.usage() == BlobUsage(0, 0)
    store.put(DATA)
    store.put(b"12345")
    assert store.usage() == BlobUsage(2, 24)


def test_a_killed_writer_leaves_nothing_under_the_digest(folder: Path) -> None:
    code = (
        "import os, sys\n"
        "from shared.blobs.store import BlobStore\n"
        "store = BlobStore(sys.argv[1])\n"
        "real = store._fs\n"
        "class Killed:\n"
        "    def __getattr__(self, name):\n"
        "        return os._exit(9) if name == 'move' else getattr(real, name)\n"
        "store._fs = Killed()\n"
        "store.put(b'three little pixels')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, folder.as_uri()], timeout=60, check=False)
    assert ended.returncode == 9
    store = BlobStore(folder.as_uri())
    assert len(list((folder / "tmp").iterdir())) == 1
    assert store.usage() == BlobUsage(0, 0)
    assert store.get(store.put(DATA)) == DATA


def test_what_a_killed_writer_left_is_removed_once_it_is_old(store: BlobStore, folder: Path) -> None:
    store.put(DATA)
    old, young = folder / "tmp" / "old", folder / "tmp" / "young"
    for file in (old, young):
        file.write_bytes(b"half")
    past = time.time() - TEMPORARY_S - 1
    os.utime(old, (past, past))
    BlobStore(folder.as_uri())
    assert (old.exists(), young.exists()) == (False, True)


def test_a_durable_store_reads_back_the_same(folder: Path) -> None:
    store = BlobStore(folder.as_uri(), durable=True)
    assert store.get(store.put(DATA)) == DATA


def test_a_disk_that_cannot_take_a_blob_is_one_sentence_and_leaves_nothing(store: BlobStore, folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Unavailable, match="cannot take 5000 bytes") as error:
            store.put(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.as_uri() in str(error.value)
    assert not any((folder / "tmp").iterdir())


def test_a_blob_that_cannot_be_begun_is_waited_for(store: BlobStore) -> None:
    with without_handles(), pytest.raises(Unavailable, match="Too many open files"):
        store.writer()


def test_an_address_that_is_none_is_a_users_error() -> None:
    with pytest.raises(UserError, match="'nowhere'"):
        BlobStore("nowhere")


def test_keys_in_the_address_stay_secret() -> None:
    with pytest.raises(UserError) as error:
        BlobStore("s4://key:secret@bucket/blobs?region=here")
    assert "s4://bucket/blobs" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_reference_that_knows_only_the_digest_finds_the_blob_and_leaves_it(tmp_path: Path) -> None:
    store = BlobStore(tmp_path.as_uri())
    ref = store.put(b"pixels")
    assert store.get(BlobRef(digest=ref.digest, size=0)) == b"pixels"
    assert store.get(ref) == b"pixels"


def test_a_store_whose_folder_is_gone_is_away_and_misses_no_blob(tmp_path: Path) -> None:
    """As a share that is not mounted for a moment: nothing may be taken for lost, nothing written beside it."""
    store = BlobStore((tmp_path / "blobs").as_uri())
    ref = store.put(b"kept")
    (tmp_path / "blobs").rename(tmp_path / "elsewhere")
    for call in (lambda: store.get(ref), lambda: store.has(ref), lambda: store.put(b"new"), store.writer):
        with pytest.raises(Unavailable, match="is away: its folder is not there") as error:
            call()
        assert not isinstance(error.value, BlobMissing)
    assert not (tmp_path / "blobs").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "blobs")
    assert store.get(ref) == b"kept"
