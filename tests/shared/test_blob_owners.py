"""Whose a blob is, and what goes when its job goes: by reference, never by age."""

import threading
from pathlib import Path

import pytest

from shared.blobs.store import BlobStore
from shared.errors import BlobMissing


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path.as_uri())


def blobs_in(folder: Path) -> int:
    return sum(path.is_file() for path in folder.glob("??/*"))


def test_a_job_s_blobs_go_with_it_and_its_name_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    mine, other = store.of("mine"), store.of("other")
    refs = [mine.put(f"image {number}".encode()) for number in range(3)]
    kept = other.put(b"another job's")
    assert store.forget("mine") == 3
    assert not any(store.has(ref) for ref in refs)
    assert store.get(kept) == b"another job's"
    assert [path.name for path in (tmp_path / "refs").iterdir()] == ["other"]
    assert store.forget("mine") == 0, "again is fine"


def test_a_blob_of_two_jobs_goes_with_the_second(store: BlobStore) -> None:
    ref = store.of("first").put(b"the same image")
    assert store.of("second").put(b"the same image") == ref
    assert store.forget("first") == 0
    assert store.get(ref) == b"the same image"
    assert store.forget("second") == 1
    with pytest.raises(BlobMissing):
        store.get(ref)


def test_a_blob_is_marked_before_it_is_there(store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(self: BlobStore, path: str, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BlobStore, "_write", die)
    with pytest.raises(KeyboardInterrupt):
        store.of("job").put(b"never written")
    assert len(list((tmp_path / "refs" / "job").iterdir())) == 1
    assert store.forget("job") == 0


def test_a_blob_that_its_user_has_deleted_leaves_no_mark_and_is_marked_anew_when_it_is_put_again(
    store: BlobStore, tmp_path: Path
) -> None:
    mine = store.of("job")
    for number in range(3):
        mine.delete(ref := mine.put(f"weights {number}".encode()))
        mine.delete(ref)
    assert blobs_in(tmp_path) == 0 and not list((tmp_path / "refs" / "job").iterdir())
    mine.put(b"weights 2")
    assert store.forget("job") == 1


def test_a_job_that_deletes_what_another_one_has_too_takes_its_own_mark_alone(store: BlobStore) -> None:
    first, second = store.of("first"), store.of("second")
    ref = first.put(b"the same frozen weights")
    second.put(b"the same frozen weights")
    first.delete(ref)
    assert store.get(ref) == b"the same frozen weights"
    assert store.forget("first") == 0
    second.delete(ref)
    assert not store.has(ref)


def test_a_blob_that_another_job_puts_while_its_owner_deletes_it_is_there_afterwards(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one comes between the look at the marks and the deletion."""
    mine, looks = store.of("mine"), []
    ref, look = mine.put(b"the same frozen weights"), BlobStore._is_of_others

    def look_then_put(self: BlobStore, digest: str, job: str) -> bool:
        found = look(self, digest, job)
        if not looks:
            store.of("other").put(b"the same frozen weights")
        looks.append(found)
        return found

    monkeypatch.setattr(BlobStore, "_is_of_others", look_then_put)
    mine.delete(ref)
    assert looks == [False, True]
    assert store.get(ref) == b"the same frozen weights"


def test_a_torn_blob_is_its_owners_still(store: BlobStore, tmp_path: Path) -> None:
    mine = store.of("job")
    ref = mine.put(b"weights")
    (tmp_path / ref.digest[:2] / ref.digest).write_bytes(b"weigh")
    with pytest.raises(BlobMissing, match="is torn"):
        mine.get(ref)
    mine.put(b"weights")
    assert store.forget("job") == 1


def test_a_job_that_begins_while_its_forerunner_is_forgotten_keeps_their_common_images(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, names = store.of("old").put(b"the same image"), store._names

    def names_then_begin(folder: str) -> list[str]:
        listed = names(folder)
        if folder.endswith("/old"):
            store.of("new").put(b"the same image")
        return listed

    monkeypatch.setattr(store, "_names", names_then_begin)
    store.forget("old")
    assert store.get(ref) == b"the same image"


def test_a_blob_that_another_job_puts_while_its_owner_is_forgotten_is_there_afterwards(tmp_path: Path) -> None:
    for round_ in range(50):
        store, data = BlobStore(tmp_path.as_uri()), f"shared {round_}".encode()
        ref = store.of("old").put(data)
        start = threading.Barrier(2)

        def put(data: bytes = data, start: threading.Barrier = start, round_: int = round_) -> None:
            start.wait()
            BlobStore(tmp_path.as_uri()).of(f"new {round_}").put(data)

        thread = threading.Thread(target=put)
        thread.start()
        start.wait()
        store.forget("old")
        thread.join()
        assert store.get(ref) == data
