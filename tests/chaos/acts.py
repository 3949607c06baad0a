"""Doing a fault to a running system; each returns when the fault is over (what it has broken may take longer)."""

import asyncio
import contextlib
import os
import random
import signal

from tests.chaos.schedule import MOMENTS, Fault
from tests.chaos.system import System, wait_until
from tests.disks import filled, is_small

MOMENT_S = 3.0
"""A moment that was not passed for so long is not waited for: the process that should pass it has nothing to do."""


async def act(system: System, fault: Fault, rng: random.Random) -> Fault:
    """Do `fault`, or kill a replica when there is nothing to do it to; returns what was done."""
    if await _act(system, fault, rng):
        return fault
    instead = Fault(fault.step, "kill", "rollout")
    kill(system, instead.target, rng)
    return instead


async def _act(system: System, fault: Fault, rng: random.Random) -> bool:
    """Whether there was something to do `fault` to."""
    match fault.kind:
        case "kill":
            return kill(system, fault.target, rng)
        case "moment":
            return await die_at(system, fault.target)
        case "freeze":
            return await freeze(_pids(system, fault.target), fault.seconds)
        case "server-killed":
            _server(system, fault.target).kill()
            return True
        case "server-away":
            return await freeze([_server(system, fault.target).pid], fault.seconds)
        case "redis-emptied":
            return await empty_redis(system)
        case "disk-full":
            return await fill_disk(system, fault.seconds)
        case "blob":
            return spoil_blob(system, fault.target, rng)
    (system.skews / fault.target).write_text(str(fault.seconds))
    return kill(system, fault.target, rng)


def kill(system: System, service: str, rng: random.Random) -> bool:
    """`kill -9` of one replica."""
    pids = _pids(system, service)
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(pids), signal.SIGKILL)
    return bool(pids)


async def die_at(system: System, moment: str) -> bool:
    """Have the next process that passes `moment` die there."""
    assert moment in MOMENTS
    wanted = system.moments / moment
    wanted.touch()
    was_passed = await wait_until(lambda: not wanted.exists(), MOMENT_S)
    wanted.unlink(missing_ok=True)
    return was_passed


async def freeze(pids: list[int | None], seconds: float) -> bool:
    """SIGSTOP the first of `pids` for so long, then wake it: a zombie that believes it is still in charge."""
    pid = pids[0] if pids else None
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
    return True


async def empty_redis(system: System) -> bool:
    """FLUSHALL."""
    from redis.asyncio import Redis

    client = Redis.from_url(_server(system, "redis").url)
    try:
        await client.flushall()
    finally:
        await client.aclose()
    return True


async def fill_disk(system: System, seconds: float) -> bool:
    """No byte is free where blobs, run folders, logs and what NATS keeps lie, for so long."""
    if not is_small(system.disk):
        return False
    with filled(system.disk):
        await asyncio.sleep(seconds)
    return True


def spoil_blob(system: System, how: str, rng: random.Random) -> bool:
    """Delete one blob of the store, or turn its bytes around."""
    found = sorted(path for path in system.blobs.glob("??/*") if path.is_file())
    if not found:
        return False
    path = rng.choice(found)
    system.spoiled.add(path.name)
    with contextlib.suppress(FileNotFoundError):  # it went by itself just now
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[::-1])
    return True


def _pids(system: System, service: str) -> list[int | None]:
    return list(system.deployment.supervisor.pids(service))


def _server(system: System, name: str):  # type: ignore[no-untyped-def]
    servers = system.deployment.servers
    assert servers is not None
    return servers.nats if name == "nats" else servers.redis
