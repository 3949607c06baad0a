"""`python -m tests.chaos.queue --jobs 20`: jobs queued at once end by themselves, in order, as one JSON line.

Three steps each, the staleness bound drawn from 0, 1 and 2; one in four is stopped or shortened while it runs.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from shared.jobs.record import ENDED
from tests.chaos.schedule import Schedule
from tests.chaos.system import PROMPTS_PER_STEP, System, running

STEPS = 3
LIMIT_S = 300.0
"""Of one job."""


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="queue-") as scratch:
        async with running(Path(scratch)) as system:
            line = await queue(system, arguments.jobs, random.Random(arguments.seed))
    sys.stdout.write(json.dumps(line) + "\n")
    return int(bool(line["broken"]))


async def queue(system: System, count: int, rng: random.Random) -> dict[str, Any]:
    """Submit all jobs, then only wait (and stop or shorten those whose turn it is for that)."""
    began, jobs, wishes = time.monotonic(), [], {}
    for place in range(count):
        job = await system.submit(Schedule(place, 1, rng.choice((0, 1, 2)), poison=False, steps=STEPS, faults=()))
        jobs.append(job)
        if place % 4 == 3:
            wishes[job] = rng.choice(("stop", "shorten"))
    ended = await _ended_in_order(system, jobs, wishes)
    broken = [] if ended == jobs else [f"the jobs ended in the order {ended}, expected {jobs}"]
    reports = [system.report(job) for job in ended]
    broken += [sentence for report in reports if (sentence := _wrong(report))]
    states = [report["state"] for report in reports]
    return {
        "broken": broken,
        "jobs": count,
        "states": {state: states.count(state) for state in sorted(set(states))},
        "steps": sum(report["steps"] for report in reports),
        "wall_s": round(time.monotonic() - began, 1),
    }


async def _ended_in_order(system: System, jobs: list[str], wishes: dict[str, str]) -> list[str]:
    """The jobs in the order in which they ended; those that have not when none ended for `LIMIT_S` are missing."""
    ended: dict[str, float] = {}
    moved_at = time.monotonic()
    while len(ended) < len(jobs) and time.monotonic() - moved_at < LIMIT_S:
        for job in [job for job in jobs if job not in ended][:2]:  # the one that runs, and the next
            if system.seen[job].versions and job in wishes:  # it runs: its first version is told
                await _ask(system, job, wishes.pop(job))
            details = await system.show(job)
            if details is not None and details["state"] in ENDED and details["on_file"]:
                ended[job] = details["ended_at"]
                moved_at = time.monotonic()
        await asyncio.sleep(0.02)
    return sorted(ended, key=ended.__getitem__)


def _wrong(report: dict[str, Any]) -> str:
    """A sentence when the job failed or its sums do not agree, else nothing."""
    groups, job, state = report["groups"], report["job_id"], report["state"]
    is_whole = state != "done" or PROMPTS_PER_STEP <= groups["trained"] <= STEPS * PROMPTS_PER_STEP
    if state != "failed" and is_whole and groups["published"] == groups["trained"] + groups["void"]:
        return ""
    return f"{job} is {state} with {groups}: {report['error']}"


async def _ask(system: System, job: str, wish: str) -> None:
    """Stop or shorten a running job; one that has just reached its end refuses it, which is fine."""
    try:
        if wish == "stop":
            await system.client.post(f"/v1/jobs/{job}/stop")
        else:
            await system.client.patch(f"/v1/jobs/{job}", json={"total_steps": STEPS - 1})
    except httpx.TransportError:
        return


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
