"""The learner as two processes under torchrun, in the whole loop."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from services.monitor.history.queries import reading
from tests.loop.system import STEPS, B, System, agrees, running
from triune.local.supervisor import ranked_command

pytestmark = [pytest.mark.loop, pytest.mark.timeout(900)]


def kill_rank(system: System, rank: int) -> None:
    torchrun = psutil.Process(system.deployment.supervisor.pids("learner")[0])
    (process,) = (child for child in torchrun.children() if child.environ().get("RANK") == str(rank))
    os.kill(process.pid, signal.SIGKILL)


async def test_a_job_on_two_ranks_survives_the_death_of_each_of_them_and_of_torchrun(
    tmp_path: Path, model: Path, data: Path
) -> None:
    """Its steps are begun before all of their groups have come."""
    async with running(tmp_path, model, data, command=ranked_command(2)) as system:
        learner = {"engine": "deepspeed", "zero_stage": 2, "checkpoint_every": 2, "overlap": "on"}
        job = system.submit(learner=learner, rollout={"groups_in_flight": 2})
        await system.until(job, lambda details: details["step"] >= 3)
        kill_rank(system, 1)
        await system.until(job, lambda details: details["step"] >= 5)
        kill_rank(system, 0)
        await system.until(job, lambda details: details["step"] >= 7)
        system.kill("learner")  # torchrun itself: its workers end with it
        report = await system.finished(job)
        assert report["state"] == "done"
        agrees(report)
        trained = system.trained(job)
        assert len(trained) == len(set(trained)) == STEPS * B
        with reading(system.deployment.runs / job) as reader:
            assert reader is not None
            assert any(step["portions"] for step in reader.steps())
