"""One seed from its submission to its verdict."""

import asyncio
import math
import random
import shutil
import time
from dataclasses import dataclass, field
from functools import partial

from shared.errors import Unavailable
from shared.jobs.record import ENDED
from tests.chaos.acts import act
from tests.chaos.checks import broken_rules, left_blobs, weights_digest
from tests.chaos.schedule import Fault, Schedule
from tests.chaos.system import System, wait_until

STANDSTILL_S = 150.0
"""No step and no end for so long, with no fault going on, is a standstill."""
SETTLE_S = 30.0
"""How long what a job leaves behind may take to go."""


@dataclass
class Outcome:
    """What came of a seed."""

    schedule: Schedule
    done: list[Fault] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the end of each fault to the next step (or the end of the last job)."""
    wall_s: float = 0.0
    jobs: int = 0
    published: int = 0
    duplicates: int = 0
    compared: int = 0
    voids: dict[str, int] = field(default_factory=dict)
    unheard: int = 0
    """Steps that were purged before we could hear them, known from the file alone."""
    destroyed: int = 0
    """Jobs that failed, and said so, because a blob that was destroyed is all there was of a step to be made again."""

    def as_line(self) -> dict[str, object]:
        return {
            "seed": self.schedule.seed,
            "broken": self.broken,
            "jobs": self.jobs,
            "max_staleness": self.schedule.max_staleness,
            "overlap": self.schedule.overlap,
            "faults": [f"{fault.step}: {fault}" for fault in self.done],
            "published": self.published,
            "made twice": self.duplicates,
            "voids": self.voids,
            "steps not heard": self.unheard,
            "jobs failed by a destroyed blob": self.destroyed,
            "recovery_max_s": round(max(self.recoveries, default=0.0), 1),
            "wall_s": round(self.wall_s, 1),
        }


async def reference(system: System, steps: int) -> str:
    """The digest of the weights that an on-policy job of `steps` ends with when nothing happens to it."""
    calm = Schedule(seed=0, jobs=1, max_staleness=0, poison=False, steps=steps, faults=())
    job = await system.submit(calm)
    await _until_over(system, [job])
    assert not await broken_rules(system, calm, job, None)
    kept = system.base / f"calm-{steps}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(system.deployment.runs / job, kept)  # the disk that it lies on goes with the system
    return weights_digest(kept)


async def play(system: System, schedule: Schedule, bits: str | None) -> Outcome:
    """Submit the jobs, do the faults at their steps, wait for the end, look at what came of it.

    Where the jobs are over before all faults have been, one more is submitted.
    """
    outcome, began, rng = Outcome(schedule), time.monotonic(), random.Random(schedule.seed)
    system.spoiled.clear()
    jobs = [await system.submit(schedule) for _ in range(schedule.jobs)]
    over = asyncio.create_task(_until_over(system, jobs))
    ends: list[float] = []
    try:
        for fault in schedule.faults:
            await wait_until(partial(_has_come, system, jobs, fault.step, over), math.inf)
            if over.done():
                over.result()
                made = system.step(jobs)
                jobs.append(await system.submit(schedule))
                over = asyncio.create_task(_until_over(system, jobs))
                await wait_until(partial(_has_come, system, jobs, made + 1, over), math.inf)
            outcome.done.append(await act(system, fault, rng))
            ends.append(time.monotonic())
        await over
    except Unavailable as error:
        outcome.broken.append(str(error))
    finally:
        over.cancel()
        await asyncio.wait({over})
    outcome.recoveries = _recoveries(system, jobs, ends)
    outcome.jobs = len(jobs)
    for job in jobs if not outcome.broken else []:
        if await _is_destroyed(system, job):
            outcome.destroyed += 1
            await system.client.delete(f"/v1/jobs/{job}")
            continue
        outcome.broken += [
            f"{job}: {sentence}" for sentence in await broken_rules(system, schedule, job, bits, outcome.done)
        ]
        _count(system, job, outcome, bits)
    if not outcome.broken and not await wait_until(lambda: not left_blobs(system), SETTLE_S):
        outcome.broken.append(f"{len(left_blobs(system))} blobs are left, expected none")
    for job in jobs if not outcome.broken else []:  # the disk is small; the folders of a broken seed stay
        shutil.rmtree(system.deployment.runs / job, ignore_errors=True)
    outcome.wall_s = time.monotonic() - began
    return outcome


async def _is_destroyed(system: System, job: str) -> bool:
    """Whether the job has failed because the learner needed a blob again that we had destroyed."""
    details = await system.show(job) or {}
    error = str(details.get("error"))
    is_told = any(f"cannot be used any more: blob {digest}" in error for digest in system.spoiled)
    return details.get("state") == "failed" and is_told


def _has_come(system: System, jobs: list[str], step: int, over: "asyncio.Task[None]") -> bool:
    """Whether the jobs have made `step` steps together, or are over."""
    return system.step(jobs) >= step or over.done()


async def _until_over(system: System, jobs: list[str]) -> None:
    """Return once every job has ended and is on file; raises Unavailable at a standstill."""
    moved_at, last = time.monotonic(), (-1, 0)
    while True:
        shown = [await system.show(job) for job in jobs]
        if all(one and one["state"] in ENDED and one["on_file"] for one in shown):
            return
        now = (system.step(jobs), sum(bool(one and one["state"] in ENDED) for one in shown))
        if now != last:
            moved_at, last = time.monotonic(), now
        if time.monotonic() - moved_at > STANDSTILL_S:
            states = [one and f"{one['state']} at step {one.get('step')}" for one in shown]
            raise Unavailable(f"a standstill of {STANDSTILL_S:g} s: {states}")
        await asyncio.sleep(0.1)


def _recoveries(system: System, jobs: list[str], ends: list[float]) -> list[float]:
    steps = sorted(at for job in jobs for at, _ in system.seen[job].steps)
    found = []
    for end in ends:
        after = [at for at in steps if at > end]
        if after:
            found.append(after[0] - end)
    return found


def _count(system: System, job: str, outcome: Outcome, bits: str | None) -> None:
    report = system.report(job)
    outcome.published += report["groups"]["published"]
    outcome.duplicates += report["groups"]["duplicates"]
    outcome.unheard += outcome.schedule.steps - len({done.step for _, done in system.seen[job].steps})
    outcome.compared += bits is not None and outcome.schedule.is_comparable and not report["groups"]["void"]
    for source in report["sources"].values():
        for reason, count in source["void_reasons"].items():
            outcome.voids[reason] = outcome.voids.get(reason, 0) + count
