"""`python -m tests.chaos.queue --jobs 20`: jobs queued at once end by themselves, in order, as one JSON line.

Three steps each, the staleness bound drawn from 0, 1 and 2. One in four has more of them, and is stopped or shortened
while it runs.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared.jobs.record import ENDED
from tests.chaos.schedule import Schedule
from tests.chaos.system import PROMPTS_PER_STEP, System, running

STEPS, LONG = 3, 500
"""Of most jobs, and of one that is to be stopped or shortened: so many that it surely runs when it is asked."""
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
        is_wished = place % 4 == 3
        steps = LONG if is_wished else STEPS
        job = await system.submit(Schedule(place, 1, rng.choice((0, 1, 2)), poison=False, steps=steps, faults=()))
        jobs.append(job)
        if is_wished:
            wishes[job] = "stop" if place % 8 == 3 else "shorten"
    asked = dict.fromkeys(jobs, Asked(STEPS))
    ended = await _ended_in_order(system, jobs, wishes, asked)
    broken = [] if ended == jobs else [f"the jobs ended in the order {ended}, expected {jobs}"]
    reports = [system.report(job) for job in ended]
    broken += [sentence for report in reports if (sentence := _wrong(report, asked[report["job_id"]]))]
    states = [report["state"] for report in reports]
    return {
        "broken": broken,
        "jobs": count,
        "states": {state: states.count(state) for state in sorted(set(states))},
        "shortened": sum(one.is_changed and one.steps is not None for one in asked.values()),
        "steps": sum(report["steps"] for report in reports),
        "wall_s": round(time.monotonic() - began, 1),
    }


@dataclass(frozen=True)
class Asked:
    """How many steps a job was to make in the end; None: it was stopped, and may have made any number."""

    steps: int | None
    is_changed: bool = False


async def _ended_in_order(
    system: System, jobs: list[str], wishes: dict[str, str], asked: dict[str, Asked]
) -> list[str]:
    """The jobs in the order in which they ended; those that have not when none ended for `LIMIT_S` are missing."""
    ended: dict[str, float] = {}
    moved_at = time.monotonic()
    while len(ended) < len(jobs) and time.monotonic() - moved_at < LIMIT_S:
        for job in [job for job in jobs if job not in ended][:2]:  # the one that runs, and the next
            if system.seen[job].step and job in wishes and (taken := await _ask(system, job, wishes[job])):
                asked[job] = taken
                del wishes[job]
            details = await system.show(job)
            if details is not None and details["state"] in ENDED and details["on_file"]:
                ended[job] = details["ended_at"]
                moved_at = time.monotonic()
        await asyncio.sleep(0.02)
    return sorted(ended, key=ended.__getitem__)


def _wrong(report: dict[str, Any], asked: Asked) -> str:
    """A sentence when the job has not become what was asked of it, or its sums do not agree; else nothing."""
    groups, job, state, steps = report["groups"], report["job_id"], report["state"], report["steps"]
    if asked.steps is None:
        is_right = state == "stopped" and 0 < steps < LONG
    else:
        is_right = state == "done" and steps == asked.steps and groups["trained"] == steps * PROMPTS_PER_STEP
    if is_right and groups["published"] == groups["trained"] + groups["void"]:
        return ""
    return f"{job} is {state} after {steps} steps with {groups}, expected {asked}: {report['error']}"


async def _ask(system: System, job: str, wish: str) -> Asked | None:
    """Stop a running job, or shorten it to a few more steps; None when that was not taken, and is to be asked again."""
    steps = system.seen[job].step + STEPS
    try:
        if wish == "stop":
            answer = await system.client.post(f"/v1/jobs/{job}/stop")
        else:
            answer = await system.client.patch(f"/v1/jobs/{job}", json={"total_steps": steps})
    except httpx.TransportError:
        return None
    if not answer.is_success:
        return None
    return Asked(None if wish == "stop" else steps, is_changed=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
