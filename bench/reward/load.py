"""Servers under load: processes on free ports, a client that costs little, and what both took."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from dataclasses import dataclass

import psutil

START_S = 300.0


@dataclass(frozen=True)
class Measured:
    """What `seconds` of load gave: requests, their latencies in s, and the CPU time of the servers in s.

    `free_s` is the time in s that the servers' cores had for them: what they used, and what nobody did.
    """

    requests: int
    seconds: float
    latencies: list[float]
    server_cpu_s: float
    free_s: float

    def percentile(self, share: float) -> float:
        """A latency in ms."""
        ranked = sorted(self.latencies)
        return 1000 * ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def served(arguments: Sequence[str], port: int, environment: dict[str, str]) -> AsyncIterator[psutil.Process]:
    """A server process that answers `GET /` at `port`; it is ended with the block."""
    process = subprocess.Popen(  # noqa: ASYNC220 — before anything is measured
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await _wait(port)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


async def _wait(port: int) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)


def request_bytes(path: str, body: bytes) -> bytes:
    """A whole HTTP request, made before the clock runs."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def load(
    ports: Sequence[int],
    requests: Sequence[bytes],
    servers: Sequence[psutil.Process],
    *,
    connections: int,
    seconds: float,
) -> Measured:
    """Send `requests`, each once, over `connections` kept-alive connections, for `seconds` at most.

    Nothing is sent twice: what a server keeps of equal requests is no part of its speed here.
    """
    feed = iter(requests)
    latencies: list[float] = []
    cores = {core for server in servers for core in server.cpu_affinity()}
    cpu, idle = _cpu(servers), _idle(cores)
    started = time.perf_counter()
    ends = started + seconds
    await asyncio.gather(*(_client(ports[number % len(ports)], feed, ends, latencies) for number in range(connections)))
    took, used = time.perf_counter() - started, _cpu(servers) - cpu
    return Measured(len(latencies), took, latencies, used, used + _idle(cores) - idle)


async def _client(port: int, feed: Iterator[bytes], ends: float, latencies: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    while (begun := time.perf_counter()) < ends and (request := next(feed, None)) is not None:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        place = head.lower().index(b"content-length:") + 15
        await reader.readexactly(int(head[place : head.index(b"\r\n", place)]))
        latencies.append(time.perf_counter() - begun)
    writer.close()


def keep_to(server: psutil.Process, core: int) -> None:
    """A server and all that it has started run on one core."""
    for process in (server, *server.children(recursive=True)):
        process.cpu_affinity([core])


def _idle(cores: Set[int]) -> float:
    """Seconds in which nothing ran on the cores so far."""
    return sum(times.idle + times.iowait for core, times in enumerate(psutil.cpu_times(percpu=True)) if core in cores)


def _cpu(servers: Sequence[psutil.Process]) -> float:
    """CPU seconds of the processes and their children so far."""
    total = 0.0
    for server in servers:
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total
