"""`python -m tests.chaos.soak --groups 20000`: a long job through engines that compute nothing, as one JSON line.

`--real`: through the engines themselves, with a tiny random model, which takes much longer for as many groups.

Memory of every service (the mean of the last third of the time against that of the first, the start-up left out), what
the servers and the blob store keep on disk, records in the journal; and in the middle a learner that sleeps: then data
stops at the window's end, and nothing is dropped. Exit code 1 when a limit is broken.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from services.monitor.config import MonitorConfig
from shared.jobs.record import ENDED
from tests.chaos.checks import left_blobs
from tests.chaos.schedule import Schedule
from tests.chaos.system import System, running, wait_until

REPLICAS = {"data": 1, "rollout": 1, "reward": 1, "learner": 1, "monitor": 1}
PROMPTS_PER_STEP, REAL_PROMPTS_PER_STEP = 50, 8
CHECKPOINT_EVERY, MAX_STALENESS = 10, 1
STALL_S, LOOK_S = 20.0, 2.0
MEMORY_GROWTH, START_UP = 0.05, 0.1
"""What a service may grow by, and the share of the time that counts as start-up."""


@dataclass
class Readings:
    """One look every `LOOK_S`: resident bytes by service (with its workers), bytes on disk, records in the journal."""

    memory: dict[str, list[int]] = field(default_factory=dict)
    disk: list[int] = field(default_factory=list)
    journal: list[int] = field(default_factory=list)

    async def look(self, system: System) -> None:
        for service in REPLICAS:
            self.memory.setdefault(service, []).append(sum(map(_resident, system.deployment.supervisor.pids(service))))
        stored = [system.disk / "local" / "nats", system.blobs]
        self.disk.append(sum(path.stat().st_size for folder in stored for path in folder.rglob("*") if path.is_file()))
        self.journal.append((await system.bus.stream_state("scored")).messages)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=20_000)
    parser.add_argument("--real", action="store_true", help="with the engines that compute")
    arguments = parser.parse_args()
    batch = REAL_PROMPTS_PER_STEP if arguments.real else PROMPTS_PER_STEP
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        async with running(Path(scratch), fakes=not arguments.real, replicas=REPLICAS) as system:
            line = await soak(system, arguments.groups, batch)
    sys.stdout.write(json.dumps(line) + "\n")
    return int(bool(line["broken"]))


async def soak(system: System, groups: int, batch: int) -> dict[str, object]:
    """Run a job of `batch` groups a step; its figures, with a sentence for each limit that it broke."""
    steps = groups // batch
    document = system.document(Schedule(0, 1, MAX_STALENESS, poison=False, steps=steps, faults=()))
    document["algorithm"]["prompts_per_step"] = batch
    document["learner"]["checkpoint_every"] = CHECKPOINT_EVERY
    began, readings = time.monotonic(), Readings()
    job = await system.send(document)
    stalled: list[str] = []
    while not await _is_over(system, job):
        await readings.look(system)
        if not stalled and system.seen[job].step > steps // 2:
            stalled = [await stall(system, job)]
        await asyncio.sleep(LOOK_S)
    report = system.report(job)
    growth = {name: _growth(values) for name, values in readings.memory.items()}
    await wait_until(lambda: not left_blobs(system), 30.0)
    broken = [sentence for sentence in stalled if sentence]
    broken += [f"{name} grew by {share:.1%}" for name, share in growth.items() if share > MEMORY_GROWTH]
    # Three intervals of checkpoints (kept for a replay, waiting for a purge, filling), the window, and what
    # the monitor may not have acked when a checkpoint purges.
    kept = (3 * CHECKPOINT_EVERY + MAX_STALENESS + 2) * batch + MonitorConfig().batch_records
    if max(readings.journal) > kept:
        broken.append(f"the journal held {max(readings.journal)} records, expected at most {kept}")
    if report["groups"] != {"published": groups, "trained": groups, "void": 0, "duplicates": 0}:
        broken.append(f"the groups are {report['groups']}")
    if left_blobs(system):
        broken.append(f"{len(left_blobs(system))} blobs are left")
    return {
        "broken": broken,
        "groups": report["groups"]["trained"],
        "groups_per_s": round(groups / (time.monotonic() - began), 1),
        "memory_mb": {name: [_mb(_third(values, k)) for k in range(3)] for name, values in readings.memory.items()},
        "memory_growth": {name: round(share, 4) for name, share in growth.items()},
        "journal_records_max": max(readings.journal),
        "disk_mb": {"first third": _mb(_third(readings.disk, 0)), "last third": _mb(_third(readings.disk, 2))},
        "staleness": report["staleness"],
    }


async def stall(system: System, job: str) -> str:
    """Put the learner to sleep: a sentence when data goes past the window, else nothing."""
    (pid,) = system.deployment.supervisor.pids("learner")
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(STALL_S)
        end = max(message.window_end for _, message in system.seen[job].versions)
        found = await system.bus.get(f"ordinal.{job}")
        ordinal = int(found.value) if found else 0
    finally:
        os.kill(pid, signal.SIGCONT)
    return "" if ordinal <= end else f"data went to ordinal {ordinal} while the learner slept, expected {end} at most"


async def _is_over(system: System, job: str) -> bool:
    details = await system.show(job)
    return bool(details and details["state"] in ENDED and details["on_file"])


def _resident(pid: int) -> int:
    try:
        process = psutil.Process(pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def _growth(values: list[int]) -> float:
    """The last third against the first, without the start-up."""
    running_ = values[int(len(values) * START_UP) :]
    return _mean(_third(running_, 2)) / _mean(_third(running_, 0)) - 1.0


def _third(values: list[int], which: int) -> list[int]:
    size = max(1, len(values) // 3)
    return values[which * size : (which + 1) * size]


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)


def _mb(values: list[int]) -> float:
    return round(_mean(values) / 1e6, 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
