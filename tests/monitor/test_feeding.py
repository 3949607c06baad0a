"""A sink that is away or fails: nobody waits for it, and it gets what it missed once it works again."""

import asyncio
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from services.monitor.config import MonitorConfig
from services.monitor.exports.feeding import Feeds
from services.monitor.exports.sinks import KINDS
from shared.bus.memory.server import MemoryServer
from tests.fakes import eventually
from tests.monitor import runs
from tests.monitor import stage as stages
from tests.monitor.stage import Stage, running
from tests.monitor.test_sinks import filled

SOON = MonitorConfig(feed_s=0.01, feed_again_s=0.01)
LIMIT_S = 60.0


class Disk:
    """What a sink writes to: `full`, if it is, at one of the sink's calls."""

    def __init__(self, full: str) -> None:
        self.full, self.tries = full, 0
        self.steps: list[int] = []

    def use(self, call: str) -> None:
        if call == self.full:
            self.tries += 1
            raise OSError(28, "No space left on device")


class OnDisk:
    """A sink of a library that passes the disk's errors on, as TensorBoard does."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        disk.use("open")

    def write(self, step: int, time: float, values: Mapping[str, float]) -> None:
        self._disk.use("write")
        self._disk.steps.append(step)

    def flush(self) -> None:
        self._disk.use("flush")

    def close(self) -> None:
        self._disk.use("close")


def on_disk(full: str, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(full)
    monkeypatch.setitem(KINDS, "tensorboard", lambda folder, job: OnDisk(disk))
    return disk


@pytest.mark.parametrize("call", ["open", "write", "flush"])
async def test_a_sink_that_fails_is_tried_again_told_once_and_given_what_it_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    disk = on_disk(call, monkeypatch)
    filled(tmp_path).close()
    with capture_logs() as said:
        feeds = Feeds(tmp_path, "demo", ["tensorboard"], SOON)
        await eventually(lambda: has_tried(disk, 3))
        disk.full = ""
        feeds.end()
        await feeds.ended(LIMIT_S)
    assert [one["event"] for one in said] == ["a sink cannot be fed; tried again", "a sink is fed again"]
    assert "No space left" in said[0]["error"]
    assert set(disk.steps) == {0, 1, 2}
    assert feeds.fed == {"sinks.tensorboard.step": "2", "sinks.tensorboard.version": "0"}


async def has_tried(disk: Disk, times: int) -> bool:
    return disk.tries >= times


@pytest.mark.parametrize("call", ["write", "close"])
async def test_the_end_of_a_job_says_of_a_sink_that_fails_that_it_did_not_get_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    on_disk(call, monkeypatch)
    filled(tmp_path).close()
    feeds = Feeds(tmp_path, "demo", ["tensorboard"], SOON)
    with capture_logs() as said:
        feeds.end()
        await feeds.ended(LIMIT_S)
    assert said[-1]["event"] == "a sink did not get the whole job"
    assert said[-1]["last_step"] == (0 if call == "write" else 2)


async def test_a_sink_that_fails_holds_up_no_other_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk("")
    monkeypatch.setitem(KINDS, "trackio", lambda folder, job: OnDisk(disk))
    on_disk("open", monkeypatch)
    filled(tmp_path).close()
    feeds = Feeds(tmp_path, "demo", ["tensorboard", "trackio"], SOON)
    feeds.end()
    await feeds.ended(LIMIT_S)
    assert disk.steps == [1, 2, 0]


async def test_a_server_of_mlflow_that_never_answers_stops_neither_the_record_nor_the_end_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setattr(stages, "CONFIG", msgspec.structs.replace(stages.CONFIG, feed_last_s=0.1, feed_close_s=0.1))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # so that its thread ends with the test
    server = MemoryServer()
    with socket.create_server(("127.0.0.1", 0)) as silent, capture_logs() as said:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        async with running(Stage(tmp_path, server)) as stage:
            job = await stage.submit(monitor={"sinks": ["mlflow"]})
            await stage.state(job, "running")
            asked, _ = await asyncio.to_thread(silent.accept)
            with asked:
                await stage.publish(job, runs.group(0))
                await stage.announce(job, runs.step_done(1, [0]))
                await eventually(lambda: has_acked(server, job, 1))
                await stage.jobs.move(job, "done")
                assert (await stage.report(job, "done"))["groups"]["trained"] == 1  # type: ignore[index]
                await eventually(lambda: is_on_file(stage, job))
    assert [one["sink"] for one in said if one["event"] == "a sink did not get the whole job"] == ["mlflow"]


async def has_acked(server: MemoryServer, job: str, sequence: int) -> bool:
    return server.floors.get((f"scored.{job}.train", "monitor"), 0) >= sequence


async def is_on_file(stage: Stage, job: str) -> bool:
    return bool((await stage.show(job))["on_file"])
