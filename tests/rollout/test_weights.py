"""Which blobs are fetched and loaded when the weights change."""

import pytest

from services.rollout.weights import WeightsLoader, tensor_names
from shared.errors import BlobMissing
from shared.messages import BlobRef
from tests.rollout.fakes import FakeEngine, MemoryBlobs, weights_blob


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


def put(blobs: MemoryBlobs, *names: str, value: float = 0.0) -> BlobRef:
    return blobs.put(weights_blob(*names, value=value))


def test_names_come_from_the_header_alone() -> None:
    assert tensor_names(weights_blob("a", "b.weight")) == {"a", "b.weight"}


def test_what_the_engine_runs_already_is_not_loaded_again(blobs: MemoryBlobs) -> None:
    engine = FakeEngine()
    loader = WeightsLoader(engine, blobs)
    anchor = put(blobs, "frozen", "trained")
    loader.load(0, [anchor])
    loader.load(1, [anchor, put(blobs, "trained", value=1)])
    loader.load(2, [anchor, put(blobs, "trained", value=2)])
    assert engine.loads == [(0, 1), (1, 1), (2, 1)]


def test_a_tensor_that_the_new_chain_does_not_name_comes_from_the_anchor(blobs: MemoryBlobs) -> None:
    """Version 1 changed x and y, version 2 only x: y must go back to the anchor's."""
    engine = FakeEngine()
    loader = WeightsLoader(engine, blobs)
    anchor = put(blobs, "x", "y")
    loader.load(1, [anchor, put(blobs, "x", "y", value=1)])
    loader.load(2, [anchor, put(blobs, "x", value=2)])
    assert engine.loads == [(1, 2), (2, 2)]


def test_the_same_version_with_other_blobs_is_another(blobs: MemoryBlobs) -> None:
    loader = WeightsLoader(FakeEngine(), blobs)
    first, second = [put(blobs, "x")], [put(blobs, "x", value=1)]
    loader.load(1, first)
    assert loader.runs(1, first) and not loader.runs(1, second) and not loader.runs(2, first)


def test_a_missing_blob_leaves_what_runs_as_it_was(blobs: MemoryBlobs) -> None:
    engine = FakeEngine()
    loader = WeightsLoader(engine, blobs)
    chain, missing = [put(blobs, "x")], put(blobs, "x", value=1)
    loader.load(0, chain)
    blobs.delete(missing)
    with pytest.raises(BlobMissing):
        loader.load(1, [missing])
    assert loader.runs(0, chain)
