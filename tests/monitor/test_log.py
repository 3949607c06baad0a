"""The monitor reads the whole log of a job, from where its own store ends, or says that it cannot."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.monitor import handlers
from shared.bus.memory.server import MemoryServer
from shared.log.purging import MONITOR, Needed, purge_log
from shared.messages import DeviceTurn
from tests.fakes import eventually
from tests.monitor import runs
from tests.monitor import stage as stages
from tests.monitor.stage import Stage, running


async def test_records_behind_the_acks_are_read_again_when_the_store_is_older_than_them(tmp_path: Path) -> None:
    """As after a loss of power, or on a restored run folder: the store ends before the floor."""
    server = MemoryServer()
    async with running(Stage(tmp_path, server)) as stage:
        job = await stage.submit()
        await stage.state(job, "running")
        await stage.publish(job, *(runs.group(n) for n in range(5)))
        await eventually(lambda: _has_acked(server, job, 5))
    shutil.rmtree(tmp_path / "runs" / job)
    async with running(Stage(tmp_path, server)) as stage:
        await stage.publish(job, runs.group(5))
        await eventually(lambda: _has_published(stage, job, 6))


async def test_a_store_that_ends_before_a_purge_is_told_and_no_record_is_skipped(tmp_path: Path) -> None:
    server = MemoryServer()
    async with running(Stage(tmp_path, server)) as stage:
        job = await stage.submit()
        await stage.state(job, "running")
        await stage.publish(job, *(runs.group(n) for n in range(5)))
        await eventually(lambda: _has_acked(server, job, 5))
        await purge_log(stage.bus, job, Needed(train=4, steps=0, weights=0))
    shutil.rmtree(tmp_path / "runs" / job)
    async with running(Stage(tmp_path, server)) as stage:
        await eventually(lambda: _is_told(stage, job, "purged below sequence 4, expected it from 1"))


async def test_no_turn_on_a_shared_device_goes_before_it_is_read_and_the_last_one_stays(tmp_path: Path) -> None:
    server = MemoryServer()
    async with running(Stage(tmp_path, server)) as stage:
        job = await stage.submit()
        await stage.state(job, "running")
    stage, nothing = Stage(tmp_path, server), Needed(train=0, steps=0, weights=0)
    for state in ("wanted", "free", "returned"):
        await stage.announce(job, DeviceTurn(job=job, turn=1, state=state))
    await purge_log(stage.bus, job, nothing)
    last = await stage.bus.last_sequence("events", job, "device")
    async with running(stage):
        async with asyncio.timeout(60.0):
            while await stage.bus.floor("events", job, "*", MONITOR) < last:
                await server.wait_change(0.05)
        await purge_log(stage.bus, job, nothing)
        left = [entry for entry in server.streams["events"].entries.values() if entry.subject.endswith(".device")]
    assert len(left) == 1
    found = await stage.bus.last_event(job, "device")
    assert found is not None and isinstance(found[0], DeviceTurn) and found[0].state == "returned"


async def test_steps_with_a_gap_between_them_are_corrupt(tmp_path: Path) -> None:
    async with running(Stage(tmp_path, MemoryServer())) as stage:
        job = await stage.submit()
        await stage.state(job, "running")
        await stage.publish(job, runs.group(0), runs.group(1))
        await stage.announce(job, runs.step_done(1, [0]))
        await stage.announce(job, runs.step_done(3, [1]))
        await eventually(lambda: _is_told(stage, job, "step 3 follows step 1"))


async def test_the_first_report_that_names_the_end_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, written = MemoryServer(), list[dict[str, Any]]()
    write = handlers.write_report

    def note(folder: Path, report: dict[str, Any]) -> None:
        written.append(report)
        write(folder, report)

    async with running(Stage(tmp_path, server)) as stage:
        job = await stage.submit()
        await stage.state(job, "running")
    monkeypatch.setattr(stages, "CONFIG", msgspec.structs.replace(stages.CONFIG, batch_records=4))
    stage = Stage(tmp_path, server)
    for step in range(1, 21):  # several batches
        await stage.publish(job, runs.group(step - 1))
        await stage.announce(job, runs.step_done(step, [step - 1]))
    await stage.jobs.set_ordinal(job, 20)
    await stage.jobs.move(job, "done")
    monkeypatch.setattr(handlers, "write_report", note)
    async with running(stage):
        await eventually(lambda: _is_on_file(stage, job))
    assert len(written) > 1
    first = next(report for report in written if report["state"] == "done")
    assert first["groups"]["trained"] == 20
    assert {report["state"] for report in written} == {"running", "done"}


async def _has_acked(server: MemoryServer, job: str, sequence: int) -> bool:
    return server.floors.get((f"scored.{job}.train", "monitor"), 0) >= sequence


async def _has_published(stage: Stage, job: str, count: int) -> bool:
    return await stage.published(job) == count


async def _is_told(stage: Stage, job: str, sentence: str) -> bool:
    return sentence in str((await stage.show(job))["reading_error"])


async def _is_on_file(stage: Stage, job: str) -> bool:
    return bool((await stage.show(job))["on_file"])
