"""The services as child processes: started, started again when they die, stopped in order, never left behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx

from shared.errors import FAULT, TriuneError, Unavailable, UserError
from shared.runtime.logging import get_logger
from triune.local.process import bound_log, end_group, free_port, last_lines, spawn
from triune.local.servers import LocalServers

QUICK_S = 30.0
"""A process that lived shorter died quickly."""
QUICK_DEATHS = 5
"""So many quick deaths in a row, and the supervisor gives up."""
STOP_S = 15.0
"""From SIGTERM to SIGKILL; a service gives itself 10 s."""
_PAUSES_S = (0.1, 0.5, 1.0, 2.0, 5.0)
_LOOK_S = 0.05
_TEND_S = 2.0
_BAD_INPUT = 2
_LAST = ("monitor",)
"""Stopped after all others, so that it sees the end of the run."""

Command = Callable[[str], Sequence[str]]


def serve_command(service: str) -> Sequence[str]:
    """`triune serve SERVICE` in this interpreter."""
    return [sys.executable, "-m", "triune", "serve", service]


def ranked_command(learner_ranks: int) -> Command:
    """`serve_command`, but the learner is so many processes under torchrun, which ends them all when one ends."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={learner_ranks}"]

    def command(service: str) -> Sequence[str]:
        return [*torchrun, "-m", "services.learner"] if service == "learner" else serve_command(service)

    return command


@dataclass
class _Child:
    """One replica: its process and what became of its forerunners."""

    service: str
    index: int
    port: int
    log: Path
    env: Mapping[str, str]
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    quick_deaths: int = 0
    start_at: float = 0.0  # when to start it again

    @property
    def name(self) -> str:
        return f"{self.service}-{self.index}"

    def said(self) -> str:
        return f"{last_lines(self.log) or 'it has written nothing yet'} ({self.log})"


class Supervisor:
    """Runs `services[name]` replicas of each service while its context lasts.

    Each gets a log file of its own, a name that outlives its restarts (TRIUNE_REPLICA) and a port for /readyz
    (TRIUNE_HEALTH_PORT; the monitor answers on TRIUNE_API_PORT). `servers` are kept running too.
    Enter the context in the main thread.
    """

    def __init__(
        self,
        *,
        services: Mapping[str, int],
        env: Mapping[str, str],
        log_dir: Path,
        env_by_service: Mapping[str, Mapping[str, str]] | None = None,
        servers: LocalServers | None = None,
        command: Command = serve_command,
        quick_deaths: int = QUICK_DEATHS,
        stop_s: float = STOP_S,
    ) -> None:
        self._servers = servers
        self._command, self._quick_deaths, self._stop_s = command, quick_deaths, stop_s
        self._run = uuid.uuid4().hex[:4]  # two supervisors on one bus must not share replica names
        extra = env_by_service or {}
        self._children = [
            self._child(service, index, {**env, **extra.get(service, {})}, log_dir)
            for service, count in services.items()
            for index in range(count)
        ]
        self._keepers: list[asyncio.Task[None]] = []

    def _child(self, service: str, index: int, env: Mapping[str, str], log_dir: Path) -> _Child:
        api_port = int(env.get("TRIUNE_API_PORT", "0")) if service == "monitor" else 0
        port = api_port or free_port()
        own = {"TRIUNE_REPLICA": f"{service}-{index}-{self._run}", "TRIUNE_HEALTH_PORT": str(port)}
        return _Child(service, index, port, log_dir / f"{service}-{index}.log", {**env, **own})

    async def __aenter__(self) -> "Supervisor":
        try:
            for child in self._children:
                self._start(child)
        except BaseException:
            await self._stop(self._children)
            raise
        self._keepers = [asyncio.create_task(keep) for keep in (self._keep_running(), self._tend())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)
        await self._stop([child for child in self._children if child.service not in _LAST])
        await self._stop([child for child in self._children if child.service in _LAST])

    def pids(self, service: str) -> list[int]:
        """The running processes of a service, by replica."""
        return [
            child.process.pid
            for child in self._children
            if child.service == service and child.process and not _has_ended(child.process)
        ]

    async def wait_ready(self, limit_s: float) -> None:
        """Return once every replica is ready; raises Unavailable past `limit_s`, or as `watch` does."""
        until, waiting = time.monotonic() + limit_s, list(self._children)
        async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
            while waiting:
                self._raise_if_given_up()
                waiting = [child for child in waiting if not await _is_ready(client, child)]
                if waiting and time.monotonic() > until:
                    raise Unavailable(f"{waiting[0].name} was not ready within {limit_s:g} s: {waiting[0].said()}")
                await asyncio.sleep(_LOOK_S if waiting else 0)

    async def watch(self) -> None:
        """Return never; raise the one sentence when a service cannot be kept running."""
        assert self._keepers, "enter the context first"
        await asyncio.wait(self._keepers, return_when=asyncio.FIRST_COMPLETED)
        self._raise_if_given_up()

    def _raise_if_given_up(self) -> None:
        for keeper in self._keepers:
            if keeper.done():
                keeper.result()

    def _start(self, child: _Child) -> None:
        child.process = spawn(self._command(child.service), child.log, child.env)
        child.started_at = time.monotonic()

    async def _keep_running(self) -> None:
        while True:
            if self._servers is not None:
                self._servers.revive()
            for child in self._children:
                if child.process is not None and _has_ended(child.process):
                    self._on_death(child, child.process)
                if child.process is None and time.monotonic() >= child.start_at:
                    self._start_again(child)
            await asyncio.sleep(_LOOK_S)

    def _start_again(self, child: _Child) -> None:
        try:
            self._start(child)
        except OSError as error:  # no memory or no file handle for a process now
            get_logger().warning("a service cannot be started yet", name=child.name, error=str(error))
            child.start_at = time.monotonic() + _PAUSES_S[-1]

    async def _tend(self) -> None:
        """What takes its time, every two seconds: servers that a full disk has stopped, logs that have become long."""
        while True:
            await asyncio.sleep(_TEND_S)
            try:
                await asyncio.to_thread(self._heal)
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # no thread, no room, no end of a stop
                get_logger().warning("tending failed and is tried again", error=str(error))

    def _heal(self) -> None:
        logs = [child.log for child in self._children]
        if self._servers is not None:
            self._servers.heal()
            logs += [self._servers.nats.log, self._servers.redis.log]
        for log in logs:
            bound_log(log)

    def _on_death(self, child: _Child, process: "subprocess.Popen[bytes]") -> None:
        """Remove what the dead process left, and say when to start the next; raises when there is no next."""
        end_group(process, signal.SIGKILL)
        code, lived_s = process.wait(), time.monotonic() - child.started_at
        child.process = None
        if code != FAULT:  # a job's fault: the third one fails the job, and the service is as good as before
            child.quick_deaths = child.quick_deaths + 1 if lived_s < QUICK_S else 0
        get_logger().warning("a service died", name=child.name, code=code, lived_s=round(lived_s, 1))
        if code == _BAD_INPUT:
            raise UserError(f"{child.name} refused to start: {child.said()}")
        if child.quick_deaths >= self._quick_deaths:
            raise ServiceDied(
                f"{child.name} died {child.quick_deaths} times in a row within {QUICK_S:g} s of its start "
                f"(exit code {code}): {child.said()}"
            )
        child.start_at = time.monotonic() + _PAUSES_S[min(child.quick_deaths, len(_PAUSES_S) - 1)]

    async def _stop(self, children: Sequence[_Child]) -> None:
        """SIGTERM, and SIGKILL to what is left of each group in the end."""
        running = [child.process for child in children if child.process is not None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()  # the service alone: it stops its own workers
        until = time.monotonic() + self._stop_s
        for process in running:
            while time.monotonic() < until and not _has_ended(process):  # noqa: ASYNC110 - the kernel rings no bell
                await asyncio.sleep(_LOOK_S)
            end_group(process, signal.SIGKILL)
            process.wait()


class ServiceDied(TriuneError):
    """A service dies again and again right after its start."""


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it has ended; it is not reaped yet, so its group's number is not given to another."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


async def _is_ready(client: httpx.AsyncClient, child: _Child) -> bool:
    try:
        return (await client.get(f"http://127.0.0.1:{child.port}/readyz")).is_success
    except httpx.TransportError:
        return False
