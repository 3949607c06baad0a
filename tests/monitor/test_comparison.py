"""Runs beside each other: what differs in their settings, held-out rewards with errors, and what people call them."""

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.monitor.analysis.comparison import mean_of, repetitions
from shared.bus.memory.server import MemoryServer
from tests.monitor import runs
from tests.monitor.stage import Stage, running


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with running(Stage(tmp_path, MemoryServer())) as stage:
        yield stage


async def evaluated(stage: Stage, rewards: dict[int, list[float]], **keys: object) -> str:
    """A job that is done, with the rewards of its held-out samples by version."""
    job = await stage.submit(**keys)
    await stage.state(job, "running")
    for version, of_version in rewards.items():
        groups = [runs.group(k, [reward], kind="eval", version=version) for k, reward in enumerate(of_version)]
        await stage.publish(job, *groups)
        await stage.announce(job, runs.eval_done(version, len(groups)))
    await stage.jobs.move(job, "done")
    await stage.report(job, "done")
    return job


def test_a_mean_has_the_standard_error_of_its_sample() -> None:
    mean = mean_of([0.0, 1.0, 1.0, 0.0])
    assert mean is not None
    assert (mean.value, mean.n) == (0.5, 4)
    assert mean.error == pytest.approx(math.sqrt((4 * 0.25 / 3) / 4))  # s² = 1/3, s/√4
    assert mean_of([1.0]) is not None and mean_of([1.0]).error is None  # type: ignore[union-attr]
    assert mean_of([]) is None


def test_runs_that_differ_in_seed_name_and_sinks_alone_are_repetitions() -> None:
    settings: dict[str, dict[str, Any]] = {
        "a": {"seed": 0, "name": "x", "optimizer.lr": 1e-6, "monitor.sinks": []},
        "b": {"seed": 1, "name": "y", "optimizer.lr": 1e-6, "monitor.sinks": ["wandb"]},
        "c": {"seed": 0, "name": "x", "optimizer.lr": 1e-5, "monitor.sinks": []},
    }
    assert repetitions(settings) == [["a", "b"], ["c"]]


async def test_runs_are_compared_by_settings_and_held_out_rewards(stage: Stage) -> None:
    one = await evaluated(stage, {0: [0.0, 0.0, 1.0, 0.0], 3: [1.0, 0.0, 1.0, 1.0]}, seed=1)
    other = await evaluated(stage, {0: [0.0, 0.0, 1.0, 0.0]}, seed=2, total_steps=5)
    answer = await stage.http.get("/v1/comparison", params={"job": [one, other]})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["settings"] == [
        {"key": "seed", "values": {one: 1, other: 2}},
        {"key": "total_steps", "values": {one: 3, other: 5}},
    ]
    assert found["repetitions"] == [[one], [other]]
    (row,) = found["sources"]
    assert (row["source"], row["task"]) == ("sums", "math")
    change = row["runs"][one]["change"]
    assert change["value"] == 0.5  # 1, 0, 0, 1
    assert change["error"] == pytest.approx(math.sqrt((4 * 0.25 / 3) / 4))
    assert row["runs"][one]["after"]["value"] == 0.75
    assert row["runs"][other]["after"] is None
    assert row["runs"][other]["before"]["value"] == 0.25


async def test_comparing_an_unknown_run_is_a_404_and_no_run_a_422(stage: Stage) -> None:
    assert (await stage.http.get("/v1/comparison", params={"job": "nobody"})).status_code == 404
    assert (await stage.http.get("/v1/comparison")).status_code == 422


async def test_a_run_is_named_tagged_and_hidden_and_keeps_what_a_change_leaves_out(stage: Stage) -> None:
    job = await stage.submit()
    path = f"/v1/jobs/{job}/label"
    assert (await stage.http.patch(path, json={"title": "small clip", "tags": ["baseline"]})).status_code == 200
    assert (await stage.http.patch(path, json={"hidden": True})).status_code == 200
    (listed,) = (await stage.http.get("/v1/jobs")).json()["jobs"]
    label = {"title": "small clip", "tags": ["baseline"], "hidden": True}
    assert {key: listed[key] for key in label} == label
    assert {key: (await stage.show(job))[key] for key in label} == label


@pytest.mark.parametrize("change", [{"title": "x" * 101}, {"tags": ["Two Words"]}, {"tags": ["a"] * 21}, {"hidden": 3}])
async def test_a_label_has_bounds(stage: Stage, change: dict[str, Any]) -> None:
    job = await stage.submit()
    assert (await stage.http.patch(f"/v1/jobs/{job}/label", json=change)).status_code == 422


async def test_a_damaged_label_is_told_and_hides_no_job(stage: Stage) -> None:
    job = await stage.submit()
    (stage.folder / "runs" / job / "label.json").write_bytes(msgspec.json.encode({"title": 3}))
    (listed,) = (await stage.http.get("/v1/jobs")).json()["jobs"]
    assert "is no label" in listed["title"]
