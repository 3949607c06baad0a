"""What is fetched and loaded when the weights change."""

from pathlib import Path

import pytest
import torch

from services.rollout.weights import WeightsLoader
from shared.blobs.store import BlobStore
from shared.blobs.weights import WeightsStore
from shared.errors import BlobMissing
from shared.messages import BlobRef
from tests.published import publish
from tests.rollout.fakes import FakeEngine


class World:
    """A blob store, and a replica's engine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs, self.engine = folder, BlobStore((folder / "blobs").as_uri()), FakeEngine()
        self.loader = WeightsLoader(self.engine, WeightsStore(self.blobs, folder / "replica"))

    def publish(self, version: int, **values: float) -> BlobRef:
        tensors = {name: torch.full((1,), float(value)) for name, value in values.items()}
        return publish(self.blobs, self.folder / "learner", version, tensors)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_only_tensors_that_changed_are_loaded(world: World) -> None:
    world.loader.load(0, world.publish(0, frozen=0, trained=0))
    world.loader.load(1, world.publish(1, frozen=0, trained=1))
    world.loader.load(2, world.publish(2, frozen=0, trained=0))
    assert world.engine.loads == [(0, ["frozen", "trained"]), (1, ["trained"]), (2, ["trained"])]


def test_the_same_version_with_other_weights_is_another(world: World) -> None:
    first, second = world.publish(1, x=0), world.publish(1, x=1)
    world.loader.load(1, first)
    assert world.loader.runs(1, first) and not world.loader.runs(1, second) and not world.loader.runs(2, first)


def test_a_missing_blob_leaves_what_runs_as_it_was(world: World) -> None:
    first, second = world.publish(0, x=0), world.publish(1, x=1)
    world.loader.load(0, first)
    for ref in WeightsStore(world.blobs, world.folder / "other").blobs_of(second):
        world.blobs.delete(ref)
    with pytest.raises(BlobMissing):
        world.loader.load(1, second)
    assert world.loader.runs(0, first)
