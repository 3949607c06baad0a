"""Native crashes: what a process that had no time for an exception leaves to the one that is started in its place."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.jobs.document import parse_job
from shared.jobs.following import ActiveJob, follow_active
from shared.jobs.record import JobRecord, JobStore
from shared.runtime.crashes import CrashFile
from tests.fakes import eventually

PROGRAM = """
import faulthandler, os, signal, sys
from pathlib import Path
from shared.runtime.crashes import CrashFile
crashes = CrashFile(Path(sys.argv[1]))
crashes.work_on("an-earlier-job")
crashes.work_on(sys.argv[2])
def decode():
    {end}
decode()
"""
ENDS = {
    "segfault": ("faulthandler._sigsegv()", signal.SIGSEGV, "Segmentation fault"),
    "abort": ("os.abort()", signal.SIGABRT, "Aborted"),
}


def process(path: Path, job: str, end: str) -> int:
    """The exit code of a process that ends by `end` while it works on `job`."""
    return subprocess.run([sys.executable, "-c", PROGRAM.format(end=end), str(path), job], check=False).returncode


@pytest.mark.parametrize("kind", ENDS)
def test_a_native_crash_leaves_the_job_the_error_and_the_place(tmp_path: Path, kind: str) -> None:
    end, number, error = ENDS[kind]
    path = tmp_path / "crashes" / "rollout-0"
    assert process(path, "job-a", end) == -number
    crash = CrashFile(path).take()
    assert crash is not None
    assert (crash.job, crash.error) == ("job-a", error)
    assert crash.where.endswith(":9")
    assert CrashFile(path).take() is None, "it is told once"


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "1 / 0", "crashes.close()"])
def test_other_ends_leave_no_crash(tmp_path: Path, end: str) -> None:
    process(tmp_path / "file", "job-a", end)
    assert CrashFile(tmp_path / "file").take() is None


def test_a_crash_outside_of_any_jobs_work_is_nobodys(tmp_path: Path) -> None:
    process(tmp_path / "file", "", ENDS["segfault"][0])
    assert CrashFile(tmp_path / "file").take() is None


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    crashes = CrashFile(tmp_path / "file" / "rollout-0")
    crashes.work_on("job-a")
    assert crashes.take() is None
    crashes.close()


async def test_the_third_native_crash_in_the_same_place_fails_the_job_and_the_service_lives(tmp_path: Path) -> None:
    jobs, path, began = JobStore(MemoryBus(MemoryServer())), tmp_path / "rollout-0", []
    spec = parse_job({"model": "m", "total_steps": 1, "data": {"train": ["x"]}})
    for job, created_at in (("job-a", 0.0), ("job-b", 1.0)):
        await jobs.create(JobRecord(id=job, spec=spec, state="running", created_at=created_at))

    async def work(job: ActiveJob) -> None:
        began.append(job.id)
        await job.changed(60.0)

    async def has(job: str, lives: int) -> bool:
        return began.count(job) == lives

    async def live(job: str, lives: int) -> None:
        """A process that comes to work on `job`, in place of one that crashed in its work on job-a."""
        process(path, "job-a", ENDS["segfault"][0])
        crashes = CrashFile(path)
        following = asyncio.create_task(follow_active(jobs, work, service="rollout", crashes=crashes))
        await eventually(lambda: has(job, lives))
        following.cancel()
        await asyncio.wait({following})
        crashes.close()

    await live("job-a", 1)
    await live("job-a", 2)
    await live("job-b", 1)
    found = await jobs.get("job-a")
    assert found is not None
    assert found.state == "failed"
    assert found.error.startswith("rollout ended 3 times in the same way: Segmentation fault in <string>:")
