"""Jobs submitted, changed, paused, resumed, stopped and deleted in any order: no fault, and no standstill."""

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.bus.memory.server import MemoryServer
from shared.jobs.following import ActiveJob, follow_active
from shared.jobs.record import UnknownJob
from tests.fakes import eventually
from tests.monitor.stage import Stage, running

ALLOWED = {200, 201, 202, 404, 409, 413, 422}
NUMBERS = st.one_of(
    st.integers(-2, 12),
    st.sampled_from([10**9, 10**30, -(10**30), 2**63]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none(),
    st.booleans(),
    st.text(max_size=3),
)
CHANGES = st.dictionaries(
    st.sampled_from(["max_staleness", "total_steps", "sources.sums.weight", "sources.none.weight", "seed", "x"]),
    NUMBERS,
    max_size=3,
)
ACTIONS = st.one_of(
    st.tuples(st.just("submit"), st.dictionaries(st.sampled_from(["total_steps", "seed"]), NUMBERS, max_size=2)),
    st.tuples(st.just("patch"), CHANGES),
    st.tuples(st.sampled_from(["pause", "resume", "stop", "checkpoint", "import"]), st.just({})),
    st.tuples(st.just("delete"), st.booleans()),
    st.tuples(st.sampled_from(["end", "fail"]), st.just({})),  # what the services do
    st.tuples(st.just("wait"), st.just({})),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(ACTIONS, st.integers(0, 5)), max_size=25))
def test_no_order_of_requests_meets_a_fault_or_leaves_a_job_standing(schedule: list[tuple[Any, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_live(Path(folder), schedule))


async def _live(folder: Path, schedule: list[tuple[Any, int]]) -> None:
    async with running(Stage(folder, MemoryServer())) as stage:
        services = Services(stage)
        following = asyncio.ensure_future(follow_active(stage.jobs, services.work, service="learner"))
        known: list[str] = []
        for (action, argument), place in schedule:
            job = known[place % len(known)] if known else "job-none"
            await _act(stage, services, known, action, argument, job)
        services.finish = True
        await _until_all_have_ended(stage)
        assert not following.done()
        following.cancel()
        await asyncio.wait({following})


async def _act(stage: Stage, services: "Services", known: list[str], action: str, argument: Any, job: str) -> None:
    http = stage.http
    if action == "submit":
        answer = await http.post("/v1/jobs", json=stage.job(**argument))
        if answer.status_code == 201:
            known.append(answer.json()["job_id"])
    elif action == "patch":
        answer = await http.patch(f"/v1/jobs/{job}", json=argument)
    elif action == "delete":
        answer = await http.delete(f"/v1/jobs/{job}", params={"files": argument})
    elif action in ("end", "fail"):
        services.wish = action
        return
    elif action == "wait":
        await asyncio.sleep(0)
        return
    else:
        answer = await http.post(f"/v1/jobs/{job}/{action}")
    assert answer.status_code in ALLOWED, f"{action} {argument}: {answer.status_code} {answer.text}"


class Services:
    """What the other services make of the active job."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.wish = ""
        self.finish = False

    async def work(self, job: ActiveJob) -> None:
        while True:
            state, move = job.record.state, ""
            if state == "stopping":
                move = "stopped"
            elif state == "running" and (self.finish or self.wish == "end"):
                move, self.wish = "done", ""
            elif state in ("running", "paused") and self.wish == "fail":
                move, self.wish = "failed", ""
            if move:
                with contextlib.suppress(UnknownJob):
                    await self._stage.jobs.move(job.id, move, "it was told to")  # type: ignore[arg-type]
            await job.changed(0.01)


async def _until_all_have_ended(stage: Stage) -> None:
    """Paused jobs are resumed; then each job must end by itself, and each deleted one be gone."""

    async def all_have() -> bool:
        records = await stage.jobs.list()
        for record in records:
            if record.state == "paused":
                await stage.http.post(f"/v1/jobs/{record.id}/resume")
        return all(record.state in ("done", "stopped", "failed") and not record.abandoned for record in records)

    await eventually(all_have, limit_s=30.0)
