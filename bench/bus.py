"""What one hop over the bus costs: `python bench/bus.py` prints JSON lines against bare loopback TCP round trips.

Starts a nats-server of its own. A hop is publish → in the consumer's hand; a step is publish, fetch and ack of 32
groups of 8 completions of 20 tokens.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from shared.bus.nats.bus import NatsBus
from shared.messages import (
    ChatTurn,
    Completed,
    Completion,
    Prompt,
    Reward,
    RewardSpec,
    Sampling,
    Scored,
    decode,
    encode,
    message_id,
    pack_floats,
    pack_ints,
)
from triune.local.servers import NatsServer

JOB = "bench"
ROUNDS = 60
GROUPS = 32
VERDICTS = [Reward(status="ok")] * 8


def completed(ordinal: int) -> Completed:
    """A group as the demo's rollout sends it."""
    tokens = 20
    completion = Completion(
        pack_ints(np.arange(tokens)), pack_floats(np.full(tokens, -0.5)), "text " * 8, "stop", [(0, tokens)]
    )
    prompt = Prompt(
        job=JOB,
        kind="train",
        ordinal=ordinal,
        source="bench",
        task="math",
        sample_id=str(ordinal),
        turns=[ChatTurn(role="user", content="How many red circles?")],
        images=[],
        reward=RewardSpec(verifier="mathverify", answer="4", ground_truth="\\boxed{4}"),
        sampling=Sampling(n=8, temperature=1.0, max_new_tokens=64, seed=1),
    )
    return Completed(
        prompt=prompt,
        completions=[completion] * 8,
        prompt_ids=pack_ints(np.arange(30)),
        image_grid_thw=[(1, 6, 6)],
        patch_size=14,
        replica="bench",
        started_at=0.0,
        finished_at=0.0,
    )


async def loopback_round_trips(count: int) -> list[float]:
    """Seconds of `count` round trips of one byte over a bare TCP connection."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(64):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(b"x")
        await reader.readexactly(1)
        seconds.append(time.perf_counter() - began)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return seconds


async def hops(bus: NatsBus, count: int) -> list[float]:
    """Seconds from publish to the consumer's hand, one message at a time."""
    queue = await bus.work("completions", JOB, "eval")
    seconds = []
    for ordinal in range(count):
        waiting = asyncio.create_task(queue.fetch(1, 5.0))
        await asyncio.sleep(0)
        began = time.perf_counter()
        await bus.publish("completions", JOB, "eval", completed(ordinal), message_id(JOB, "eval", 0, ordinal))
        (delivery,) = await waiting
        seconds.append(time.perf_counter() - began)
        await delivery.ack()
    return seconds


async def followed(bus: NatsBus, server: NatsServer, count: int) -> tuple[list[float], float]:
    """A reader of the journal while groups come one by one, as the learner reads it.

    Seconds from publish to the reader's hand; processor seconds of this process and the server, a group.
    """
    reader = await bus.read_journal(JOB, "train", start=1)
    seconds, spent = [], _cpu_s(server)
    for ordinal in range(count):
        waiting = asyncio.create_task(reader.fetch(GROUPS, 5.0))
        await asyncio.sleep(0)
        record = Scored(group=completed(ordinal), rewards=VERDICTS, replica="bench", started_at=0.0, finished_at=0.0)
        began = time.perf_counter()
        await bus.publish("scored", JOB, "train", record, message_id(JOB, "train", None, ordinal))
        await waiting
        seconds.append(time.perf_counter() - began)
    spent = _cpu_s(server) - spent
    await reader.close()
    return seconds, spent / count


def _cpu_s(server: NatsServer) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return time.process_time() + float(times.user + times.system)


async def rounds(bus: NatsBus, count: int) -> list[float]:
    """Seconds to publish, fetch, decode and ack the groups of one step."""
    queue = await bus.work("completions", JOB, "train")
    seconds = []
    for number in range(count):
        groups = [completed(number * GROUPS + index) for index in range(GROUPS)]
        began = time.perf_counter()
        await asyncio.gather(
            *(
                bus.publish("completions", JOB, "train", g, message_id(JOB, "train", None, g.prompt.ordinal))
                for g in groups
            )
        )
        taken = 0
        while taken < GROUPS:
            deliveries = await queue.fetch(GROUPS - taken, 5.0)
            await asyncio.gather(*(delivery.ack() for delivery in deliveries))
            taken += len(deliveries)
        seconds.append(time.perf_counter() - began)
    return seconds


def codec() -> float:
    """Seconds to encode and decode the groups of one step."""
    groups = [completed(index) for index in range(GROUPS)]
    began = time.perf_counter()
    for group in groups:
        decode(encode(group))
    return time.perf_counter() - began


async def measure(folder: Path) -> None:
    """Print the four lines."""
    server = NatsServer(folder)
    server.start()
    try:
        bus = await NatsBus.connect(server.url)
        tcp = statistics.median(await loopback_round_trips(500))
        hop = statistics.median(await hops(bus, 200))
        step = statistics.median(await rounds(bus, ROUNDS))
        read, read_cpu = await followed(bus, server, 500)
        await bus.close()
    finally:
        server.stop()
    lines = [
        {"bench": "bus", "case": "hop", "ms": round(hop * 1e3, 3), "against_tcp_round_trip": round(hop / tcp, 1)},
        {
            "bench": "bus",
            "case": "step of 32 groups",
            "ms": round(step * 1e3, 2),
            "per_group_ms": round(step / 0.032, 3),
        },
        {
            "bench": "bus",
            "case": "log, groups that come one by one",
            "ms": round(statistics.median(read) * 1e3, 3),
            "cpu_ms_per_group": round(read_cpu * 1e3, 3),
        },
        {"bench": "bus", "case": "codec of 32 groups", "ms": round(codec() * 1e3, 3)},
    ]
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder)))
