"""Weights over blobs: the bits that were published, or an error."""

import contextlib
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.blobs import host_files, joining, pieces
from shared.blobs import manifest as manifests
from shared.blobs.host_files import HostFiles
from shared.blobs.manifest import PIECE, TensorEntry, TensorSpec, tensors_digest
from shared.blobs.snapshot import Snapshot
from shared.blobs.store import BlobStore
from shared.blobs.weights import Frozen, Published, WeightsAt, WeightsStore
from shared.errors import BlobMissing, Corrupt, TriuneError, Unavailable
from shared.messages import BlobRef
from tests.disks import crowded, is_small, small_disk, without_handles

Tensors = dict[str, np.ndarray]
NAMES = {"float32": "F32", "float64": "F64", "uint16": "U16", "uint8": "U8"}


class Host:
    """A machine with a folder of its own on a blob store that all share."""

    def __init__(self, root: Path, name: str = "learner") -> None:
        self.blobs = BlobStore((root / "blobs").as_uri())
        self.folder = root / name
        self.store = WeightsStore(self.blobs, self.folder)
        self.base: Published | None = None
        self.frozen: Frozen | None = None
        self.is_foretold = True
        """Whether the version before is known when the export begins."""

    def snapshot(self, tensors: Tensors, base: WeightsAt | None = None) -> Snapshot:
        made = self.store.snapshot(base)
        made.begin([TensorSpec(name, NAMES[str(one.dtype)], one.shape) for name, one in tensors.items()])
        for name, one in tensors.items():
            made.put(name, one.tobytes())
        made.finish()
        return made

    def freeze(self, tensors: Tensors) -> None:
        made = self.snapshot(tensors)
        self.frozen = self.store.publish_frozen(made)
        made.discard()

    def publish(self, version: int, tensors: Tensors, *, anchor: bool = False) -> Published:
        before = self.base
        base = before.at if before else None
        made = self.snapshot(tensors, base if self.is_foretold else None)
        self.base = self.store.publish(made, version=version, frozen=self.frozen, base=base, anchor=anchor)
        made.discard()
        if before:
            before.at.close()
        return self.base


def read(at: WeightsAt) -> Tensors:
    """What a replica maps."""
    found: Tensors = {}
    for file in at.files:
        found |= safetensors.numpy.load_file(file)
    return found


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def drawn(seed: int, *, size: int = 5000) -> Tensors:
    rng = np.random.default_rng(seed)
    return {
        "a.weight": rng.integers(0, 60000, (size // 5, 5), dtype=np.uint16),
        "b": rng.standard_normal(7).astype(np.float32),
        "empty": np.zeros((0, 4), dtype=np.uint16),
        "scalar": np.array(3.5, dtype=np.float32),
    }


def moved(tensors: Tensors, seed: int, share: float = 0.01) -> Tensors:
    """Some numbers' lowest bits flipped, as a small step does."""
    rng = np.random.default_rng(seed)
    found = {name: one.copy() for name, one in tensors.items()}
    for one in found.values():
        bits = one.reshape(-1).view(np.uint8)
        bits[rng.random(bits.size) < share] ^= 1
    return found


@pytest.fixture
def learner(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def far(tmp_path: Path) -> Host:
    return Host(tmp_path, "far")


def test_an_anchor_comes_back_bit_by_bit_and_any_safetensors_reader_maps_it(learner: Host, far: Host) -> None:
    learner.freeze({"vit": np.arange(10, dtype=np.uint16)})
    tensors = drawn(0)
    published = learner.publish(0, tensors)
    at = far.store.materialise(published.at.ref)
    assert same(read(at), tensors | {"vit": np.arange(10, dtype=np.uint16)})
    assert (at.version, len(at.files), published.is_anchor) == (0, 2, True)


def test_a_delta_sends_what_changed_and_comes_back_bit_by_bit(learner: Host, far: Host) -> None:
    first = drawn(0, size=500_000)
    far.store.materialise(learner.publish(0, first).at.ref).close()
    second = moved(first, 1, 0.001)
    published = learner.publish(1, second)
    at = far.store.materialise(published.at.ref)
    assert same(read(at), second)
    assert not published.is_anchor and published.sent < 0.05 * published.full
    assert at.bytes_read == published.sent


def test_frozen_tensors_are_sent_once_and_tensors_that_kept_their_bits_never_again(learner: Host) -> None:
    learner.freeze({"vit": np.zeros(1 << 20, dtype=np.uint8)})
    tensors = drawn(0)
    learner.publish(0, tensors)
    before = learner.blobs.usage().bytes
    published = learner.publish(1, tensors)
    assert published.sent == 0  # a blob of no bytes
    assert learner.blobs.usage().bytes - before < 2000  # the manifest


def test_tensors_of_many_pieces_come_back(learner: Host, far: Host) -> None:
    first = {"big": np.random.default_rng(0).integers(0, 255, 2 * PIECE + 12345, dtype=np.uint8)}
    second = {"big": first["big"].copy()}
    second["big"][PIECE + 5] ^= 3  # only the piece in the middle
    learner.publish(0, first)
    published = learner.publish(1, second)
    assert [length > 0 for length in published.at.manifest.trained[0].pieces] == [False, True, False]
    assert same(read(far.store.materialise(published.at.ref)), second)


def test_the_digest_is_of_the_tensors_alone(learner: Host, tmp_path: Path) -> None:
    """Equal bits have equal digests as a delta and as an anchor; other bits, names, types or shapes have others."""
    first, second = drawn(0), moved(drawn(0), 1)
    learner.publish(0, first)
    delta = learner.publish(1, second)
    whole = Host(tmp_path / "other").publish(7, second)
    assert delta.at.manifest.digest == whole.at.manifest.digest
    assert not delta.is_anchor and whole.is_anchor
    entry = TensorEntry("a", "F32", (2, 3), "d" * 64, 0, 0, 24)
    digests = {
        tensors_digest([one])
        for one in (
            entry,
            TensorEntry("b", "F32", (2, 3), "d" * 64, 0, 0, 24),
            TensorEntry("a", "I32", (2, 3), "d" * 64, 0, 0, 24),
            TensorEntry("a", "F32", (3, 2), "d" * 64, 0, 0, 24),
            TensorEntry("a", "F32", (2, 3), "e" * 64, 0, 0, 24),
        )
    }
    assert len(digests) == 5


def test_a_delta_as_large_as_the_weights_becomes_an_anchor(learner: Host) -> None:
    learner.publish(0, drawn(0))
    published = learner.publish(1, drawn(1))
    assert published.is_anchor and published.at.manifest.base is None


def test_a_late_joiner_takes_the_newest_anchor_and_a_replica_at_the_version_before_its_delta(
    learner: Host, far: Host, tmp_path: Path
) -> None:
    bits = drawn(0, size=500_000)
    for version in range(4):
        bits = moved(bits, version, 0.001)
        published = learner.publish(version, bits, anchor=version == 3)
        if version == 2:
            far.store.materialise(published.at.ref).close()
    near_at, late_at = (
        far.store.materialise(published.at.ref),
        Host(tmp_path, "late").store.materialise(published.at.ref),
    )
    assert same(read(near_at), bits) and same(read(late_at), bits)
    assert near_at.bytes_read < 0.05 * published.full < published.full <= late_at.bytes_read


def test_a_replica_that_was_away_catches_up_by_the_deltas_it_missed(learner: Host, far: Host) -> None:
    bits = drawn(0, size=500_000)
    far.store.materialise(learner.publish(0, bits).at.ref).close()
    sent = 0
    for version in range(1, 5):
        bits = moved(bits, version, 0.001)
        published = learner.publish(version, bits)
        sent += published.sent
    at = far.store.materialise(published.at.ref)
    assert same(read(at), bits)
    assert at.bytes_read == sent


@pytest.mark.parametrize("harm", ["torn", "flipped", "gone"])
@pytest.mark.parametrize("what", ["anchor", "delta", "frozen"])
def test_a_bad_blob_is_an_error_and_right_bits_once_it_is_written_again(
    learner: Host, far: Host, tmp_path: Path, what: str, harm: str
) -> None:
    learner.freeze({"vit": np.arange(1000, dtype=np.uint16)})
    first, second = drawn(0), moved(drawn(0), 1)
    anchor = learner.publish(0, first).at.manifest.blobs[-1]
    published = learner.publish(1, second)
    assert learner.frozen is not None
    ref = {"anchor": anchor, "delta": published.at.manifest.blobs[-1], "frozen": learner.frozen.blob}[what]
    path = tmp_path / "blobs" / ref.digest[:2] / ref.digest
    sound = path.read_bytes()
    path.unlink()  # not in place: a name of it may be the learner's own file
    if harm != "gone":
        path.write_bytes(sound[:-3] if harm == "torn" else sound[:-3] + bytes([sound[-3] ^ 4]) + sound[-2:])
    with pytest.raises(BlobMissing):
        far.store.materialise(published.at.ref)
    learner.blobs.put(sound)
    assert same(read(far.store.materialise(published.at.ref)), second | {"vit": np.arange(1000, dtype=np.uint16)})


def test_a_damaged_file_of_the_host_is_made_again(learner: Host, far: Host, tmp_path: Path) -> None:
    first, second = drawn(0), moved(drawn(0), 1)
    at = far.store.materialise(learner.publish(0, first).at.ref)
    path, bits = at.files[0], bytearray(at.files[0].read_bytes())
    at.close()
    bits[-1] ^= 1
    path.unlink()
    path.write_bytes(bits)
    published = learner.publish(1, second)
    # As the base of a delta, by the same process and by a new one that looks for the version itself.
    assert same(read(far.store.materialise(published.at.ref)), second)
    assert same(read(Host(tmp_path, "far").store.materialise(published.at.manifest.base)), first)


def test_blobs_that_contradict_their_manifest_are_corrupt(learner: Host, far: Host) -> None:
    published = learner.publish(0, drawn(0))
    entry = published.at.manifest.trained[0]
    wrong = manifests.WeightsManifest(
        version=0, digest="", blobs=published.at.manifest.blobs, frozen=(),
        trained=(
            TensorEntry(entry.name, entry.dtype, entry.shape, "0" * 64, 0, entry.offset, entry.length),
            *published.at.manifest.trained[1:],
        ),
    )  # fmt: skip
    with pytest.raises(Corrupt, match="contradict their own digests"):
        far.store.materialise(far.blobs.put(msgspec.msgpack.encode(wrong)))


def test_a_snapshot_that_is_not_what_it_announced_is_refused(learner: Host) -> None:
    made = learner.store.snapshot()
    made.begin([TensorSpec("a", "F32", (2,))])
    with pytest.raises(Corrupt, match="was not announced"):
        made.put("b", b"")
    made.put("a", bytes(4))
    with pytest.raises(Corrupt, match="has 4 bytes, expected the announced 8"):
        made.finish()
    with pytest.raises(Corrupt, match="more than the announced 8 bytes"):
        made.put("a", bytes(5))
    made.discard()
    other = learner.store.snapshot()
    with pytest.raises(Corrupt, match="has type 'Q4'"):
        other.begin([TensorSpec("a", "Q4", (2,))])
    other.discard()


def test_equal_bits_of_a_replay_are_taken_for_the_published_version(learner: Host) -> None:
    published = learner.publish(3, drawn(0))
    blobs = learner.blobs.usage()
    other, equal = learner.snapshot(drawn(1)), learner.snapshot(drawn(0))
    assert learner.store.adopt(other, published.at.ref) is None
    adopted = learner.store.adopt(equal, published.at.ref)
    for made in (other, equal):
        made.discard()
    assert adopted is not None and same(read(adopted), drawn(0))
    assert learner.blobs.usage() == blobs


def test_a_file_is_kept_while_somebody_uses_it_and_only_the_newest_after(learner: Host, far: Host) -> None:
    bits = drawn(0)
    held = far.store.materialise(learner.publish(0, bits).at.ref)
    for version in range(1, 6):
        bits = moved(bits, version)
        far.store.materialise(learner.publish(version, bits).at.ref).close()
    assert same(read(held), drawn(0))
    assert len(list(far.folder.glob("*.safetensors"))) == 3


def test_a_file_that_nobody_needs_is_written_over_and_no_other(learner: Host, tmp_path: Path) -> None:
    """One that somebody holds keeps its bits, and so does one that is an anchor's blob, too."""
    bits, files, held = drawn(0), list[int](), list[tuple[WeightsAt, Tensors]]()
    for version in range(9):
        bits = moved(bits, version)
        published = learner.publish(version, bits, anchor=version % 4 == 0)
        files.append(published.at.files[0].stat().st_ino)
        if version in (2, 4):
            held.append((Host(tmp_path).store.materialise(published.at.ref), bits))
        whole = published.at.manifest.anchor or published.at.ref
        held.extend([(Host(tmp_path, f"far-{version}").store.materialise(whole), bits)] if version % 4 == 0 else [])
    assert len(set(files)) < len(files)
    assert all(same(read(at), expected) for at, expected in held)
    assert all(files[version] not in files[version + 1 :] for version in (0, 2, 4))


def test_a_file_is_written_over_by_a_shorter_one(learner: Host, far: Host) -> None:
    for version in range(4):
        learner.publish(version, moved(drawn(0), version))
    (spare,) = learner.folder.glob(".spare")
    number, size = spare.stat().st_ino, spare.stat().st_size
    learner.base = None
    published = learner.publish(4, drawn(1, size=50))
    file = published.at.files[0].stat()
    assert file.st_ino == number and file.st_size < size
    assert same(read(far.store.materialise(published.at.ref)), drawn(1, size=50))


def _join(root: Path, ref: BlobRef, results: "multiprocessing.Queue[int]") -> None:
    at = Host(root, "far").store.materialise(ref)
    results.put(at.bytes_read)


def test_replicas_of_one_host_make_a_file_once(learner: Host, tmp_path: Path) -> None:
    published = learner.publish(0, drawn(0, size=2_000_000))
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    processes = [context.Process(target=_join, args=(tmp_path, published.at.ref, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert found[:2] == [0, 0] and found[2] > 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30))
def test_any_order_of_versions_losses_and_late_joiners_gives_the_right_bits_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = random.Random(seed)
    root = tmp_path_factory.mktemp("world")
    learner, replicas = Host(root), [Host(root, f"replica-{number}") for number in range(2)]
    if rng.random() < 0.5:
        learner.freeze({"vit": np.arange(100, dtype=np.uint16)})
    learner.is_foretold = rng.random() < 0.5
    bits, versions, right = drawn(seed, size=50), list[tuple[Published, Tensors]](), 0
    for version in range(rng.randint(2, 8)):
        bits = moved(bits, version, rng.choice([0.0, 0.02, 0.9]))
        versions.append((learner.publish(version, bits, anchor=rng.random() < 0.3), bits))
        match rng.choice(["nothing", "lose", "tear", "forget", "join"]):
            case "lose":
                rng.choice(_blobs(root)).unlink()
            case "tear":
                _tear(rng, rng.choice(_blobs(root)))
            case "forget":  # a host's folder is emptied, or one of its files damaged
                files = list(rng.choice(replicas).folder.glob("*.safetensors"))
                for file in files:
                    file.unlink() if rng.random() < 0.5 else _tear(rng, file)
            case "join":
                replicas.append(Host(root, f"replica-{len(replicas)}"))
        for host in rng.sample(replicas, 2):
            published, expected = rng.choice(versions)
            try:
                at = host.store.materialise(published.at.ref)
            except TriuneError:
                continue
            found = read(at)
            at.close()
            assert same({name: found[name] for name in expected}, expected)
            right += 1
    assert same(_healed(root, learner, replicas[0], bits), bits)


def _healed(root: Path, learner: Host, replica: Host, bits: Tensors) -> Tensors:
    """Publish as the learner does when blobs are gone; a torn copy of the right size is removed by its first reader."""
    for attempt in range(len(_blobs(root))):
        learner.base = learner.frozen = None
        with contextlib.suppress(BlobMissing):
            return read(replica.store.materialise(learner.publish(99 + attempt, bits).at.ref))
    raise AssertionError("more readers met a torn blob than there were blobs")


def _blobs(root: Path) -> list[Path]:
    return sorted(path for path in (root / "blobs").glob("??/*"))


def _tear(rng: random.Random, path: Path) -> None:
    """Other bytes under the same name, in a file of its own."""
    data = bytearray(path.read_bytes())
    path.unlink()
    if data and rng.random() < 0.5:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data if rng.random() < 0.5 else data[: len(data) // 2])


def age(folder: Path) -> None:
    """As after an hour of which the folder's files know nothing, or with a clock set forward."""
    for path in folder.iterdir():
        os.utime(path, (past := time.time() - host_files.TEMPORARY_S - 1, past))


def test_a_snapshot_that_could_not_be_published_for_an_hour_is_there_when_it_can(learner: Host, tmp_path: Path) -> None:
    """Neither a replica of its host nor the learner itself, at its first version, takes it for a killed process'."""
    first, second = drawn(0), moved(drawn(0), 1)
    held = learner.publish(0, first)
    frozen, made = learner.snapshot({"vit": np.arange(10, dtype=np.uint16)}), learner.snapshot(second, held.at)
    age(learner.folder)
    Host(tmp_path).store.materialise(held.at.ref).close()
    learner.frozen = learner.store.publish_frozen(frozen)
    published = learner.store.publish(made, version=1, frozen=learner.frozen, base=held.at, anchor=False)
    for one in (frozen, made):
        one.discard()
    assert same(read(published.at), second | {"vit": np.arange(10, dtype=np.uint16)})


@pytest.mark.parametrize("version", [0, 1], ids=["anchor", "delta"])
def test_what_a_replica_makes_for_an_hour_is_pruned_by_no_other(
    learner: Host, far: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    bits = [drawn(0), moved(drawn(0), 1)]
    refs = [learner.publish(number, one).at.ref for number, one in enumerate(bits)]
    other, write, read_through = Host(tmp_path, "far"), joining.write_at, joining.digests

    def wait_then_write(*arguments: Any) -> None:
        write(*arguments)
        age(far.folder)
        other.store._files.prune(0)

    def wait_then_read(*arguments: Any) -> dict[str, str]:
        age(far.folder)
        other.store._files.prune(0)
        return read_through(*arguments)

    monkeypatch.setattr(joining, "write_at", wait_then_write)
    monkeypatch.setattr(joining, "digests", wait_then_read)
    assert same(read(far.store.materialise(refs[version])), bits[version])


def test_what_a_killed_process_was_making_goes_once_it_is_old(learner: Host) -> None:
    for name in (".old", ".young"):
        (learner.folder / name).write_bytes(b"half")
        if name == ".old":
            age(learner.folder)
    learner.publish(0, drawn(0))
    assert [path.name for path in learner.folder.glob(".*") if path.name != ".making"] == [".young"]


def test_a_disk_that_takes_no_file_more_is_waited_for(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 32 << 20, inodes=60) as disk:
        if not is_small(disk):
            pytest.skip("no file system may be mounted here")
        learner, far = Host(disk), Host(disk, "far")
        ref = learner.publish(0, drawn(0)).at.ref
        with crowded(disk):
            for make in (learner.store.snapshot, lambda: far.store.materialise(ref), lambda: Host(disk, "new")):
                with pytest.raises(Unavailable, match="No space left"):
                    make()
        assert same(read(far.store.materialise(ref)), drawn(0))
        assert not learner.publish(1, moved(drawn(0), 1)).is_anchor


def test_a_process_that_may_open_no_file_more_waits_and_has_lost_none(tmp_path: Path) -> None:
    files = HostFiles(tmp_path)
    made = files.blank()
    files.take(files.blank().path, "there").close()

    def make() -> None:
        with files.making(1.0):
            pass

    with without_handles():
        for call in (files.blank, lambda: files.open("there"), lambda: files.take(made.path, "new"), make):
            with pytest.raises(Unavailable, match="Too many open files"):
                call()
        files.prune(0)
    assert files.open("new") is None and files.open("there") is not None
    files.take(made.path, "new")
    make()


@pytest.mark.parametrize("is_foretold", [True, False])
def test_threads_make_the_same_blobs_as_work_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_foretold: bool
) -> None:
    def published(folder: str) -> list[BlobRef]:
        host, tensors = Host(tmp_path / folder), drawn(0)
        host.is_foretold = is_foretold
        refs = [host.publish(0, tensors).at.ref, host.publish(1, moved(tensors, 1)).at.ref]
        assert same(read(Host(tmp_path / folder, "far").store.materialise(refs[1])), moved(tensors, 1))
        return refs

    in_place = published("in-place")
    monkeypatch.setattr(pieces, "_SMALL_BYTES", 0)
    assert published("threads") == in_place


def test_a_late_joiner_of_a_large_model_has_its_bits(learner: Host, far: Host) -> None:
    """Threads work on pieces of an anchor's blob that are read ahead, and on two deltas."""
    rng = np.random.default_rng(0)
    bits = {f"layer.{number}": rng.integers(0, 1 << 16, PIECE, dtype=np.uint16) for number in range(5)}
    for version in range(3):
        bits = bits if version == 0 else {name: moved({name: one}, version, 0.001)[name] for name, one in bits.items()}
        published = learner.publish(version, bits)
    assert not published.is_anchor
    assert same(read(far.store.materialise(published.at.ref)), bits)


def test_what_is_followed_while_it_is_exported_ends_with_it(learner: Host) -> None:
    """An export that fails in the middle leaves no thread and no file behind."""
    bits = {"a": np.zeros(PIECE, dtype=np.uint16), "b": np.zeros(PIECE, dtype=np.uint16)}
    published = learner.publish(0, bits)
    made = learner.store.snapshot(published.at)
    made.begin([TensorSpec(name, "U16", one.shape) for name, one in bits.items()])
    made.put("a", bits["a"].tobytes())
    made.discard()
    with pytest.raises(Unavailable):
        made.encoding.result()
    assert not list((learner.folder.parent / "blobs" / "tmp").iterdir())
    assert not list(learner.folder.glob(".?????*"))


def test_tensors_that_lie_in_another_order_are_published_whole_and_the_next_ones_as_a_delta(
    learner: Host, far: Host
) -> None:
    first = drawn(0)
    far.store.materialise(learner.publish(0, first).at.ref).close()
    turned = dict(reversed(moved(first, 1).items()))
    assert learner.publish(1, turned).is_anchor
    published = learner.publish(2, moved(turned, 2))
    assert not published.is_anchor
    assert same(read(far.store.materialise(published.at.ref)), moved(turned, 2))


def test_a_file_that_one_process_has_checked_is_read_through_by_no_other(
    learner: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it was written to since, or before the host started."""
    try:
        os.setxattr(tmp_path, "user.probe", b"1")
    except OSError as error:
        pytest.skip(f"this file system keeps no notes on files: {error}")
    checked: list[Path] = []
    check = joining.digests

    def counted(*arguments: Any) -> dict[str, str]:
        checked.append(tmp_path)
        return check(*arguments)

    monkeypatch.setattr(joining, "digests", counted)
    at = learner.publish(0, drawn(0)).at
    for _ in range(2):
        Host(tmp_path).store.materialise(at.ref).close()
    assert not checked
    at.files[0].touch()
    for _ in range(2):
        Host(tmp_path).store.materialise(at.ref).close()
    assert len(checked) == 1
    boot = tmp_path / "boot"
    boot.write_text("another boot")
    monkeypatch.setattr(host_files, "_BOOT", boot)
    Host(tmp_path).store.materialise(at.ref).close()
    assert len(checked) == 2


def test_after_deltas_that_are_too_large_fewer_and_fewer_are_tried(learner: Host) -> None:
    tried: list[int] = []

    def publish(version: int, tensors: Tensors) -> Published:
        before, made = learner.base, learner.snapshot(tensors, learner.base.at if learner.base else None)
        tried.extend([version] * made.encoding.has_compared)
        learner.base = learner.store.publish(
            made, version=version, frozen=None, base=before.at if before else None, anchor=False
        )
        made.discard()
        return learner.base

    for version in range(8):
        assert publish(version, drawn(version)).is_anchor
    assert tried == [1, 3, 7], "pauses of 1 and 3 versions"
    for version in range(8, 16):
        publish(version, last := moved(drawn(7), version))
    assert tried[3:] == [15], "and of 7"
    assert not publish(16, moved(last, 16)).is_anchor
    assert tried[4:] == [16], "a small one is followed by the next"
