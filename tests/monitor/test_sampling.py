"""What no message tells, queue depths above all: points of it while it changes, and few while it rests."""

from pathlib import Path

import msgspec
import pytest

from services.monitor.history.queries import reading
from services.monitor.values.resting import Resting
from services.monitor.values.where import ALL
from shared.bus.memory.server import MemoryServer
from tests.fakes import eventually, make_prompt
from tests.monitor import stage as stages
from tests.monitor.stage import Stage, running

LOOKS = 10


def depths(folder: Path) -> list[float]:
    with reading(folder) as reader:
        return [value for _, _, value in reader.points("queue/prompts", ALL)] if reader else []


async def looked_at(folder: Path, rest_s: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The points of a queue that is looked at ten times with no prompt and ten times with one."""
    monkeypatch.setattr(stages, "CONFIG", msgspec.structs.replace(stages.CONFIG, sample_s=3600.0, rest_s=rest_s))
    async with running(Stage(folder, MemoryServer())) as stage:
        job = await stage.submit()
        await stage.state(job, "running")

        async def is_noted() -> bool:
            await stage.monitor.sampler.look()
            return bool(depths(folder / "runs" / job))

        await eventually(is_noted)
        for _ in range(LOOKS - 1):
            await stage.monitor.sampler.look()
        await stage.bus.publish("prompts", job, "train", make_prompt(0, job=job), "prompt-0")
        for _ in range(LOOKS):
            await stage.monitor.sampler.look()
        return depths(folder / "runs" / job)


async def test_a_queue_that_rests_has_one_point_and_one_more_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await looked_at(tmp_path, 3600.0, monkeypatch) == [0.0, 1.0]


async def test_a_queue_that_rests_is_noted_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await looked_at(tmp_path, 0.0, monkeypatch) == [0.0] * LOOKS + [1.0] * LOOKS


def test_each_value_rests_for_itself() -> None:
    resting = Resting(30.0)
    resting.noted({"a": 1.0, "b": 1.0}, 100.0)
    resting.noted({"b": 2.0}, 120.0)
    assert resting.due({"a": 1.0, "b": 2.0, "c": 0.0}, 129.0) == {"c": 0.0}
    assert resting.due({"a": 1.0, "b": 2.0}, 130.0) == {"a": 1.0}
    assert resting.due({"a": 1.0, "b": 1.0}, 121.0) == {"b": 1.0}
