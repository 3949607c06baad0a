"""What is fetched and loaded when the weights change, and what has been announced."""

import asyncio
from pathlib import Path

import pytest
import torch

from services.rollout.gate import Target
from services.rollout.weights import WeightsLoader, WeightsView
from shared.blobs.store import BlobStore
from shared.blobs.weights import WeightsStore
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.errors import BlobMissing
from shared.messages import BlobRef, EvalDone, EvalDue, WeightsPublished
from tests.published import publish


class World:
    """A blob store, and a replica's weights."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs = folder, BlobStore((folder / "blobs").as_uri())
        self.loader = WeightsLoader(WeightsStore(self.blobs, folder / "replica"))

    def publish(self, version: int, **values: float) -> Target:
        tensors = {name: torch.full((1,), float(value)) for name, value in values.items()}
        return Target(version, publish(self.blobs, self.folder / "learner", version, tensors))

    def load(self, target: Target) -> list[str]:
        """The tensors that an engine would copy."""
        at = self.loader.at(target)
        self.loader.loaded(target, at)
        return sorted(at.changed)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_only_tensors_that_changed_are_loaded(world: World) -> None:
    assert world.load(world.publish(0, frozen=0, trained=0)) == ["frozen", "trained"]
    assert world.load(world.publish(1, frozen=0, trained=1)) == ["trained"]
    assert world.load(world.publish(2, frozen=0, trained=0)) == ["trained"]
    world.loader.close()


def test_the_same_version_with_other_weights_is_another(world: World) -> None:
    first, second = world.publish(1, x=0), world.publish(1, x=1)
    world.load(first)
    assert world.loader.runs(first) and not world.loader.runs(second)
    assert not world.loader.runs(Target(2, first.manifest))
    world.loader.close()


def test_a_missing_blob_leaves_what_runs_as_it_was(world: World) -> None:
    first, second = world.publish(0, x=0), world.publish(1, x=1)
    world.load(first)
    for ref in WeightsStore(world.blobs, world.folder / "other").blobs_of(second.manifest):
        world.blobs.delete(ref)
    with pytest.raises(BlobMissing):
        world.loader.at(second)
    assert world.loader.runs(first)
    world.loader.close()


def published(version: int) -> WeightsPublished:
    return WeightsPublished(
        job="job", version=version, incarnation=0, cursor=0, window_end=8, max_staleness=0, total_steps=3,
        manifest=BlobRef(digest="", size=0), digest="",
    )  # fmt: skip


async def test_an_announcement_that_was_looked_at_is_not_followed_by_older_ones() -> None:
    """Three versions were announced: who joins sees the third at once and never the first again."""
    bus = MemoryBus(MemoryServer())
    for version in range(3):
        await bus.announce(published(version))
    view = WeightsView(bus, "job")
    await view.look()
    seen = []
    followed = asyncio.Event()

    def ring() -> None:
        assert view.newest is not None
        seen.append(view.newest.version)
        followed.set()

    assert view.newest is not None and view.newest.version == 2
    view.news.ring = ring  # type: ignore[method-assign]
    watching = asyncio.create_task(view.watch())
    await bus.announce(published(3))
    async with asyncio.timeout(5.0):
        await followed.wait()
    watching.cancel()
    await asyncio.wait({watching})
    assert seen == [3]


async def test_an_evaluation_that_is_done_is_never_open_again_for_who_joins_late() -> None:
    """Its weights' blobs are gone: they must not be asked for."""
    bus = MemoryBus(MemoryServer())
    nothing = BlobRef(digest="", size=0)
    for version in range(2):
        await bus.announce(EvalDue(job="job", version=version, manifest=nothing))
    await bus.announce(EvalDone(job="job", version=0, total=1, void=0))
    view = WeightsView(bus, "job")
    await view.look()
    open_at_rings: list[tuple[bool, bool]] = []
    followed = asyncio.Event()

    def ring() -> None:
        open_at_rings.append((view.due(0) is not None, view.due(1) is not None))
        followed.set()

    assert (view.due(0), view.evaluating, view.evaluation_done(0)) == (None, True, True)
    view.news.ring = ring  # type: ignore[method-assign]
    watching = asyncio.create_task(view.watch())
    await bus.announce(EvalDone(job="job", version=1, total=1, void=0))
    async with asyncio.timeout(5.0):
        await followed.wait()
    watching.cancel()
    await asyncio.wait({watching})
    assert open_at_rings == [(False, False)]
