"""Fixtures: real servers from the embedded binaries, and both adapters of the bus and of the ledger."""

import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.bus.port import Bus
from shared.ledger.port import Ledger
from triune.local.servers import NatsServer, RedisServer

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the hub
# `HYPOTHESIS_PROFILE=full` draws many more examples than `make test` has time for.
# The same examples in every run: a red run is of the change that it tests. `full` draws new ones.
settings.register_profile("quick", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("full", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

ACK_WAIT_S = 0.4
"""Redelivery in tests; `shared.bus.port.ACK_WAIT_S` is 5 s."""

Connect = Callable[[], Awaitable[Bus]]


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A nats-server that all tests share; each test takes job ids of its own."""
    with contextlib.closing(NatsServer(tmp_path_factory.mktemp("nats"))) as server:
        server.start()
        yield server


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server for a test that kills it or needs empty streams."""
    with contextlib.closing(NatsServer(tmp_path / "nats")) as server:
        server.start()
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server that all tests share."""
    with contextlib.closing(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        server.start()
        yield server


@pytest.fixture
def job() -> str:
    """A job id that no other test has."""
    return f"job-{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=["memory", pytest.param("nats", marks=pytest.mark.nats)])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Makes handles on one and the same bus, one a call, closed at the end."""
    async with contextlib.AsyncExitStack() as stack:
        shared_server = MemoryServer(ack_wait_s=ACK_WAIT_S)

        async def make() -> Bus:
            if request.param == "memory":
                return MemoryBus(shared_server)
            from shared.bus.nats.bus import NatsBus

            url = request.getfixturevalue("nats_server").url
            bus = await NatsBus.connect(url, ack_wait_s=ACK_WAIT_S)
            stack.push_async_callback(bus.close)
            return bus

        yield make


@pytest.fixture
async def bus(connect: Connect) -> Bus:
    """One handle on the bus, in memory and over NATS."""
    return await connect()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    """The ledger, in memory and over Redis."""
    if request.param == "memory":
        from shared.ledger.memory import MemoryLedger

        yield MemoryLedger()
        return
    from shared.ledger.redis import RedisLedger

    redis = await RedisLedger.connect(request.getfixturevalue("redis_server").url)
    yield redis
    await redis.close()
