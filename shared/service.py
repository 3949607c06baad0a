"""The skeleton of all five services: connect, run the loops, beat, stop on a signal, crash on the first error.

A service's `app.py` says what is its own:

    def build(ports: Ports) -> Service: ...
    def main() -> int: return run("reward", build)
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from starlette.types import ASGIApp

from shared.blobs.port import Blobs
from shared.bus.port import HEARTBEAT_S, Bus
from shared.errors import FAULT, TriuneError, UserError, WorkFault, one_error
from shared.jobs.record import JobStore
from shared.ledger.port import Ledger
from shared.messages import Heartbeat
from shared.runtime.collector import ignore_what_is_there
from shared.runtime.crashes import CrashFile
from shared.runtime.http import health_app, serve_http
from shared.runtime.logging import get_logger, set_up_logging
from shared.runtime.moments import arm
from shared.runtime.retry import BLOB_STORE, CONNECT_S, Retry
from shared.runtime.settings import Settings, read_settings
from shared.runtime.telemetry import set_up_telemetry

STOP_S = 10.0
"""How long the loops may take to hand back their work after a signal."""


@dataclass(frozen=True)
class Ports:
    """What a service reaches the world through; a test passes the in-memory ones."""

    settings: Settings
    bus: Bus
    ledger: Ledger
    blobs: Blobs
    jobs: JobStore
    retry: Retry = field(default_factory=Retry)
    crashes: CrashFile | None = None
    """None: in this process nothing is done about native crashes."""


@dataclass
class Status:
    """What a service tells of itself in its heartbeat; its loops write it."""

    state: str = "starting"
    version: int = -1
    in_flight: int = 0
    ready: bool = False


@dataclass(frozen=True)
class Service:
    """Loops that run until the service stops; the first error of any of them ends the process.

    `http`: an application to serve instead of the plain health one, with its host and port.
    """

    name: str
    loops: Sequence[Callable[[], Awaitable[None]]]
    status: Status = field(default_factory=Status)
    http: tuple[ASGIApp, str, int] | None = None


def run(name: str, build: Callable[[Ports], Service]) -> int:
    """A service's process from start to end; returns its exit code.

    0 stopped, 1 failed, 2 bad input, 3 (`FAULT`) a fault in the work on a job: the job answers for it, not the service.
    """
    try:
        settings = read_settings()
        set_up_logging(name, settings.replica)
        arm(settings.moments)
        return asyncio.run(_main(name, settings, build))
    except UserError as error:
        get_logger().error("cannot start", error=str(error))
        return 2
    except TriuneError as error:
        get_logger().error("the service failed", error=str(error))
        return FAULT if isinstance(error, WorkFault) else 1


async def _main(name: str, settings: Settings, build: Callable[[Ports], Service]) -> int:
    telemetry = set_up_telemetry(name, settings)
    try:
        async with connect(name, settings) as ports:
            service = build(ports)
            ignore_what_is_there()
            with one_error():
                await serve(service, ports)
        return 0
    finally:
        telemetry.close()


@contextlib.asynccontextmanager
async def connect(name: str, settings: Settings) -> AsyncIterator[Ports]:
    """Ports over NATS, Redis and the blob store; only these first connections have a limit, 60 s each."""
    from shared.blobs.store import BlobStore
    from shared.bus.nats.bus import NatsBus
    from shared.ledger.redis import RedisLedger

    retry = Retry()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(retry.close)
        open_blobs = partial(BlobStore, settings.blobs, durable=settings.durable, spool=settings.spool)
        blobs = await retry.until_back(BLOB_STORE, lambda: asyncio.to_thread(open_blobs), limit_s=CONNECT_S)
        bus = await NatsBus.connect(
            settings.nats_url,
            name=f"{name}-{settings.replica}",
            blobs=blobs,
            copies=settings.nats_copies,
            retry=retry,
        )
        stack.push_async_callback(bus.close)
        ledger = await RedisLedger.connect(settings.redis_url, retry=retry)
        stack.push_async_callback(ledger.close)
        crashes = CrashFile(settings.crashes / f"{name}-{settings.seat}")
        stack.callback(crashes.close)
        yield Ports(settings, bus, ledger, blobs, JobStore(bus), retry, crashes)


async def serve(service: Service, ports: Ports) -> None:
    """Run the loops until SIGTERM or SIGINT, or until one of them fails (the others are cancelled, it is raised)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log = get_logger()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(loop_)) for loop_ in service.loops]
        tasks += [group.create_task(_beat(service, ports)), group.create_task(_http(service, ports.settings))]
        log.info("started")
        await stop.wait()
        log.info("stopping")
        for task in tasks:
            task.cancel()
        _, late = await asyncio.wait(tasks, timeout=STOP_S)
        if late:
            log.error("loops did not stop in time", limit_s=STOP_S, loops=[task.get_name() for task in late])
            sys.exit(1)


async def _run(loop: Callable[[], Awaitable[None]]) -> None:
    await loop()


async def _beat(service: Service, ports: Ports) -> None:
    status = service.status
    while True:
        away = ports.retry.waiting_for
        await ports.bus.beat(
            Heartbeat(
                service=service.name,
                replica=ports.settings.replica,
                pid=os.getpid(),
                state=f"waiting for {away}" if away else status.state,
                version=status.version,
                in_flight=status.in_flight,
                sent_at=time.time(),
            )
        )
        await asyncio.sleep(HEARTBEAT_S)


async def _http(service: Service, settings: Settings) -> None:
    if service.http is not None:
        await serve_http(*service.http)
    elif settings.health_port:
        app = health_app(service.name, lambda: service.status.ready)
        await serve_http(app, settings.health_host, settings.health_port)
