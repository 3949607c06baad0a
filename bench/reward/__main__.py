"""`python -m bench.reward`: prints one JSON line a measurement; about a minute on two cores."""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.reward.load import Measured, free_port, keep_to, load, request_bytes, served
from bench.reward.mix import judge_body, samples

ROOT = Path(__file__).parents[2]
BATCH = 64
ROUNDS = 3
WARM_S = 1.5
WARM_BATCHES = 32
_SHAPE = "V-Triune's shape"
_OUR_VERIFIERS = "its shape with our verifiers"
_SERVE = "import sys; from triune.cli.reward import app; sys.argv = ['reward', *sys.argv[1:]]; app()"


@contextlib.asynccontextmanager
async def _ours(workers: int, replicas: int = 1) -> AsyncIterator[tuple[list[int], list[psutil.Process]]]:
    async with contextlib.AsyncExitStack() as stack:
        ports = [free_port() for _ in range(replicas)]
        arguments = [
            "-c",
            _SERVE,
            "serve",
            "--host",
            "127.0.0.1",
            "--workers",
            str(workers),
            "--iou-threshold",
            "dynamic",
        ]
        servers = [
            await stack.enter_async_context(served([*arguments, "--port", str(port)], port, _environment()))
            for port in ports
        ]
        yield ports, servers


@contextlib.asynccontextmanager
async def _baseline(verifiers: str) -> AsyncIterator[tuple[list[int], list[psutil.Process]]]:
    port = free_port()
    arguments = ["-m", "uvicorn", "bench.reward.baseline:app", "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--workers", "2", "--no-access-log"]
    async with served(arguments, port, _environment() | {"BENCH_VERIFIERS": verifiers}) as server:
        await asyncio.sleep(3.0)  # the port answers before its two processes have imported sympy
        yield [port], [server]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def _batches(made: Sequence[dict[str, Any]]) -> list[bytes]:
    chunks = [made[start : start + BATCH] for start in range(0, len(made), BATCH)]
    return [request_bytes("/v1/score", json.dumps({"samples": chunk}).encode()) for chunk in chunks]


def _singles(made: Sequence[dict[str, Any]]) -> list[bytes]:
    return [request_bytes("/judge", json.dumps(judge_body(sample)).encode()) for sample in made]


def _print(what: str, measured: Measured, samples_each: int, **facts: Any) -> tuple[float, float]:
    """Print a line; returns samples a second, and samples a second of the servers' CPU time."""
    count = measured.requests * samples_each
    rates = count / measured.seconds, count / max(measured.server_cpu_s, 1e-9)
    line = {
        **facts,
        "samples_per_s": round(rates[0], 1),
        "samples_per_cpu_s": round(rates[1], 1),
        "cpu_s_per_1000": round(1000 / rates[1], 3),
        "p50_ms": round(measured.percentile(0.5), 2),
        "p99_ms": round(measured.percentile(0.99), 2),
        "seconds": round(measured.seconds, 2),
    }
    _line(what, **line)
    return rates


async def _run(seconds: float, count: int) -> None:
    batches, singles = _batches(samples(count)), _singles(samples(count, seed=2))
    await _compare(singles, batches, seconds)
    await _replicas(_batches(samples(count, mixed=False)), seconds)
    for workers in (1, 2, 4):
        async with _ours(workers) as (ports, servers):
            found = await load(ports, batches, servers, connections=4, seconds=seconds)
            _print("score", found, BATCH, workers=workers, replicas=1, batch=BATCH)
    await _kept(batches, seconds)
    async with _ours(1) as (ports, servers):
        boxes = _batches(samples(count, detection=1.0, seed=1))
        found = await load(ports, boxes, servers, connections=4, seconds=seconds)
        _print("detection", found, BATCH, workers=1, batch=BATCH)


async def _replicas(batches: Sequence[bytes], seconds: float) -> None:
    """Replicas of one worker, each on a core of its own while there are as many; the load on the last core.

    The load's core is a replica's, too, once there are as many replicas as cores: what it and everybody else take is no
    part of `free_cores`, what the replicas had. `of_linear` is the rewards a free core and second, of one replica's;
    `by_cpu` the same of the CPU time that they used. They take turns; medians of the turns' ratios.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])
    found: dict[int, list[tuple[float, float]]] = {}
    try:
        async with contextlib.AsyncExitStack() as stack:
            crews = {count: await stack.enter_async_context(_ours(1, count)) for count in (1, 2, 4)}
            for ports, servers in crews.values():
                for number, server in enumerate(servers):
                    keep_to(server, cores[number % len(cores)])
                await load(ports, batches[-WARM_BATCHES:], servers, connections=4 * len(servers), seconds=WARM_S)
            for turn, mine in enumerate(_turns(batches[:-WARM_BATCHES])):
                for count, (ports, servers) in crews.items():
                    took = await load(ports, mine, servers, connections=4 * count, seconds=seconds / ROUNDS)
                    free = took.free_s / took.seconds
                    wall, cpu = _print(
                        "replicas", took, BATCH, replicas=count, turn=turn, batch=BATCH, free_cores=round(free, 3)
                    )
                    found.setdefault(count, []).append((wall / free, cpu))
    finally:
        os.sched_setaffinity(0, cores)
    for count, rates in found.items():
        of_linear, by_cpu = _medians(rates, found[1])
        _line("share", replicas=count, cores=min(count, len(cores)), of_linear=of_linear, by_cpu=by_cpu)


async def _kept(batches: Sequence[bytes], seconds: float) -> None:
    """A second pass over what was judged just now: the speed of what is kept, not of the verifiers."""
    few = batches[: 8192 // BATCH]  # a replica keeps twice as many
    async with _ours(1) as (ports, servers):
        for name in ("cold", "warm"):
            _print(name, await load(ports, few, servers, connections=4, seconds=10 * seconds), BATCH, workers=1)


async def _compare(singles: Sequence[bytes], batches: Sequence[bytes], seconds: float) -> None:
    """Our server against V-Triune's shape, in turns, so that a busy machine slows them all; medians of the ratios."""
    async with _baseline("library") as theirs, _baseline("ours") as shape, _ours(2) as ours:
        runs = {
            _SHAPE: (theirs, singles, 1, 16),
            _OUR_VERIFIERS: (shape, singles, 1, 16),
            "judge": (ours, singles, 1, 32),
            "score": (ours, batches, BATCH, 8),
        }
        for (ports, servers), requests, _, connections in runs.values():
            await load(ports, requests[-200:], servers, connections=connections, seconds=WARM_S)
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for turn in range(ROUNDS):
            for name, ((ports, servers), requests, each, connections) in runs.items():
                mine = _turns(requests)[turn]
                found = await load(ports, mine, servers, connections=connections, seconds=seconds / ROUNDS)
                rates[name].append(_print("turn", found, each, turn=turn, server=name))
    for route, against in itertools.product(("score", "judge"), (_SHAPE, _OUR_VERIFIERS)):
        wall, cpu = _medians(rates[route], rates[against])
        _line("ratio", route=route, against=against, ratio=wall, ratio_per_cpu_s=cpu)


def _turns(requests: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Requests of its own for every turn: nothing is judged twice."""
    bounds = [turn * len(requests) // ROUNDS for turn in range(ROUNDS + 1)]
    return [requests[start:end] for start, end in itertools.pairwise(bounds)]


def _medians(rates: Sequence[tuple[float, float]], against: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of the turns' ratios: by the clock, and by CPU time."""
    pairs = list(zip(rates, against, strict=True))
    wall, cpu = (statistics.median(mine[kind] / base[kind] for mine, base in pairs) for kind in (0, 1))
    return round(wall, 2), round(cpu, 2)


def _line(what: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"bench": f"reward.{what}", **facts}) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reward", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each measurement")
    parser.add_argument("--samples", type=int, default=40_000, help="distinct samples")
    given = parser.parse_args()
    least = (WARM_BATCHES + ROUNDS) * BATCH
    if given.samples < least:
        parser.error(f"--samples is {given.samples}; expected {least} at least: a batch a turn, and those that warm up")
    asyncio.run(_run(given.seconds, given.samples))


if __name__ == "__main__":
    main()
