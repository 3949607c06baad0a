"""`python -m tests.chaos.outages --seconds 60 600`: a job through long outages of each of its peers, as JSON lines.

The blob store, NATS and Redis are away one after the other, each for every length. Meanwhile nobody may end, and
afterwards nothing may be void, no attempt counted, no fault on the job's record; what is waited for must be told within
30 s. Exit code 1 when a rule was broken.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared.jobs.record import ENDED, JobStore
from shared.runtime.retry import BLOB_STORE
from tests.chaos.play import STANDSTILL_S
from tests.chaos.schedule import Schedule
from tests.chaos.system import System, running, wait_until

SAID_AS = {"blobs": BLOB_STORE, "nats": "NATS", "redis": "redis"}
"""How each peer is named in the states."""
TOLD_WITHIN_S = 30.0
STEPS_BETWEEN, LOOK_S = 6, 0.5
ENDLESS = 1_000_000
"""Steps of the job, which is stopped once all is over."""


@dataclass
class Seen:
    """What could be seen of one outage."""

    peer: str
    seconds: float
    said_after_s: float | None = None
    said: str = ""
    steps_meanwhile: int = 0
    back_after_s: float | None = None
    ended: int = 0

    def broken(self) -> list[str]:
        rules = {
            f"{self.ended} processes ended": self.ended > 0,
            f"it was not said within {TOLD_WITHIN_S:g} s": (self.said_after_s or self.seconds) > TOLD_WITHIN_S,
            f"no step within {STANDSTILL_S:g} s of its end": self.back_after_s is None,
        }
        return [sentence for sentence, is_broken in rules.items() if is_broken]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0])
    parser.add_argument("--peers", nargs="+", choices=sorted(SAID_AS), default=list(SAID_AS))
    arguments = parser.parse_args()
    is_broken = False
    with tempfile.TemporaryDirectory(prefix="outages-") as scratch:
        async with running(Path(scratch)) as system:
            document = system.document(Schedule(0, 1, 1, poison=False, steps=ENDLESS, faults=()))
            job = await system.send(document)
            for seconds in arguments.seconds:
                for peer in arguments.peers:
                    seen = await outage(system, job, peer, seconds)
                    is_broken |= bool(seen.broken())
                    tell(vars(seen) | {"broken": seen.broken()})
            line = await end(system, job)
    tell(line)
    return int(is_broken or bool(line["broken"]))


def tell(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def outage(system: System, job: str, peer: str, seconds: float) -> Seen:
    """Take `peer` away in the middle of the work; return once a step was made after it came back."""
    before = system.step([job])
    await wait_until(lambda: system.step([job]) >= before + STEPS_BETWEEN, STANDSTILL_S)
    seen, pids, began = Seen(peer, seconds), processes(system), time.monotonic()
    first = system.step([job])
    async with away(system, peer):
        while (now := time.monotonic() - began) < seconds:
            if seen.said_after_s is None and (said := await states(system, SAID_AS[peer])):
                seen.said_after_s, seen.said = round(now, 1), said
            await asyncio.sleep(LOOK_S)
        seen.steps_meanwhile = system.step([job]) - first
    ended, first = time.monotonic(), system.step([job])
    if await wait_until(lambda: system.step([job]) > first, STANDSTILL_S):
        seen.back_after_s = round(time.monotonic() - ended, 1)
    seen.ended = len(pids - processes(system))
    return seen


@contextlib.asynccontextmanager
async def away(system: System, peer: str) -> AsyncIterator[None]:
    """Within, `peer` answers nobody."""
    if peer == "blobs":
        elsewhere = system.blobs.with_name("away")
        system.blobs.rename(elsewhere)
        try:
            yield
        finally:
            elsewhere.rename(system.blobs)
        return
    servers = system.deployment.servers
    assert servers is not None
    pid = servers.nats.pid if peer == "nats" else servers.redis.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def processes(system: System) -> set[int]:
    """All services' processes."""
    supervisor = system.deployment.supervisor
    return {pid for service in ("data", "rollout", "reward", "learner", "monitor") for pid in supervisor.pids(service)}


async def states(system: System, name: str) -> str:
    """What the API says of who waits for the peer called `name`; empty while it says nothing of it."""
    try:
        shown: dict[str, Any] = (await system.client.get("/v1/services", timeout=TOLD_WITHIN_S)).json()
    except httpx.TransportError:
        return ""
    waiting = {replica["service"] for replica in shown["replicas"] if f"waiting for {name}" in replica["state"]}
    if name in shown["waiting_for"]:
        waiting.add("monitor")
    return f"{', '.join(sorted(waiting))} wait for {name}" if waiting else ""


async def end(system: System, job: str) -> dict[str, Any]:
    """Stop the job; its figures, with a sentence for each rule that it broke."""
    await system.client.post(f"/v1/jobs/{job}/stop")
    details: dict[str, Any] = {}
    until = time.monotonic() + STANDSTILL_S
    while time.monotonic() < until and not (details.get("state") in ENDED and details.get("on_file")):
        details = await system.show(job) or {}
        await asyncio.sleep(LOOK_S)
    report, record = system.report(job), await JobStore(system.bus).get(job)
    assert record is not None
    groups = report["groups"]
    reasons = {reason for source in report["sources"].values() for reason in source["void_reasons"]}
    letters = (await system.client.get(f"/v1/jobs/{job}/dead-letters")).json()["letters"]
    rules = {
        f"the job is {record.state}: {record.error}": record.state != "stopped",
        f"faults on the job's record: {[fault.error for fault in record.faults]}": bool(record.faults),
        f"the groups are {groups}": groups["published"] != groups["trained"] + groups["void"],
        f"groups are void as {sorted(reasons)}": bool(reasons - {"stopped"}),
        f"{len(letters)} dead letters": bool(letters),
    }
    return {
        "broken": [sentence for sentence, is_broken in rules.items() if is_broken],
        "steps": report["steps"],
        "groups": groups,
    }


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
