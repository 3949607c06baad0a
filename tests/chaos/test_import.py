"""NATS loses all its data in the middle of a job: its run folder is imported, and the job goes on."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from shared.jobs.record import ENDED
from tests.chaos.checks import weights_digest
from tests.chaos.play import reference
from tests.chaos.schedule import STEPS, Schedule
from tests.chaos.system import PROMPTS_PER_STEP, System, running
from triune.cli.errors import FAILED

pytestmark = [pytest.mark.loop, pytest.mark.nats, pytest.mark.redis, pytest.mark.timeout(600)]
LIMIT_S = 240.0


async def until_step(system: System, job: str, step: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while system.seen[job].step < step:  # noqa: ASYNC110 - events ring no bell
            await asyncio.sleep(0.05)


async def imported(system: System, folder: Path) -> str:
    """What `triune job import` says, again while the services come back."""
    env = os.environ | {"TRIUNE_RUNS": str(system.deployment.runs), "TRIUNE_API_URL": system.deployment.api_url}
    async with asyncio.timeout(LIMIT_S):
        while True:
            asked = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "triune", "job", "import", str(folder)), env=env, stdout=asyncio.subprocess.PIPE
            )
            said, _ = await asked.communicate()
            if asked.returncode != FAILED:
                return said.decode()


async def ended(system: System, job: str) -> dict[str, object]:
    async with asyncio.timeout(LIMIT_S):
        while True:
            details = await system.show(job)
            if details is not None and details["state"] in ENDED and details["on_file"]:
                return details
            await asyncio.sleep(0.1)


async def shown(system: System, job: str, status: int) -> dict[str, object]:
    """The API's answer on the job once it is `status`."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            details = await system.answer(job)
            if details is not None and details.status_code == status:
                return dict(details.json())
            await asyncio.sleep(0.1)


async def test_a_run_folder_is_imported_into_an_emptied_nats_and_the_job_ends_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as system:
        bits = await reference(system, STEPS)
        job = await system.submit(Schedule(0, 1, 0, poison=False, steps=STEPS, faults=()))
        await until_step(system, job, 8)
        servers = system.deployment.servers
        assert servers is not None
        (servers.nats.folder / "jetstream").rename(system.disk / "lost")
        servers.nats.kill()
        await shown(system, job, 404)

        assert await imported(system, system.deployment.runs / job) == f"{job} is queued\n"
        details = await ended(system, job)
        assert details["state"] == "done", details["error"]
        report = system.report(job)
        trained = STEPS * PROMPTS_PER_STEP
        assert report["groups"] == {"published": trained, "trained": trained, "void": 0, "duplicates": 0}
        assert report["steps"] == STEPS
        assert all(source["n"] and source["before"] is not None for source in report["sources"].values() if source["n"])
        assert weights_digest(system.deployment.runs / job) == bits
