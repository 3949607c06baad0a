"""Run folders that cannot be used now, or never again: the monitor goes on, and so do the other jobs."""

import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from services.monitor.history.schema import STORE_NAME
from services.monitor.history.store import Store
from shared.bus.memory.server import MemoryServer
from tests.disks import filled, is_small, small_disk
from tests.fakes import eventually
from tests.monitor import runs
from tests.monitor.stage import Stage, running


@contextlib.asynccontextmanager
async def failed(folder: Path, server: MemoryServer) -> AsyncIterator[tuple[str, Path]]:
    """A job that has failed and is on file, and its folder, a disk of its own; no process has its store open."""
    stage = Stage(folder, server)
    job = await stage.submit()
    with small_disk(folder / "runs" / job, 8 << 20) as disk:
        async with running(stage):
            await stage.state(job, "running")
            await stage.publish(job, runs.group(0))
            await stage.jobs.move(job, "failed", "it had to")
            await eventually(lambda: is_on_file(stage, job))
        Store(disk).close()  # a reader needs new files beside it then
        yield job, disk


async def is_on_file(stage: Stage, job: str) -> bool:
    return bool((await stage.show(job))["on_file"])


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Nothing can be written to it meanwhile."""
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


async def another_runs_to_its_end(stage: Stage) -> None:
    job = await stage.submit()
    await stage.state(job, "running")
    await stage.publish(job, runs.group(0))
    await stage.jobs.move(job, "done")
    assert (await stage.report(job, "done"))["groups"]["published"] == 1  # type: ignore[index]


@pytest.mark.parametrize("unusable", [filled, read_only])
async def test_a_job_that_has_ended_on_a_disk_that_cannot_be_used_stops_neither_the_monitor_nor_other_jobs(
    tmp_path: Path, unusable: Callable[[Path], contextlib.AbstractContextManager[None]]
) -> None:
    server = MemoryServer()
    async with failed(tmp_path, server) as (job, disk):
        if not is_small(disk):
            pytest.skip("mounting is not allowed here")
        with unusable(disk):
            async with running(Stage(tmp_path, server)) as stage:
                await another_runs_to_its_end(stage)
        async with running(Stage(tmp_path, server)) as stage:
            await eventually(lambda: is_known_to_be_on_file(stage, job))


async def is_known_to_be_on_file(stage: Stage, job: str) -> bool:
    control = stage.monitor.control
    return job in control.records and control.is_told(control.records[job]) and await is_on_file(stage, job)


async def test_a_job_that_has_ended_and_whose_store_is_damaged_stops_neither_the_monitor_nor_other_jobs(
    tmp_path: Path,
) -> None:
    server = MemoryServer()
    async with failed(tmp_path, server) as (job, folder):
        (folder / STORE_NAME).write_bytes(b"no store " * 1000)
        async with running(Stage(tmp_path, server)) as stage:
            await another_runs_to_its_end(stage)
            assert "is damaged" in str((await stage.show(job))["reading_error"])
