"""The contract of the ledger, on both adapters."""

import contextlib
import socket
from pathlib import Path

import pytest

from shared.errors import Unavailable, UserError
from shared.ledger.memory import MemoryLedger
from shared.ledger.port import LOADED_S, Ledger, LedgerView, Window
from shared.ledger.redis import RedisLedger
from tests.fakes import FrozenClock
from triune.local.servers import RedisServer

WINDOW = Window(version=3, cursor=24, end=40, max_staleness=1)


async def test_an_unknown_window_is_none_and_not_zero(ledger: Ledger, job: str) -> None:
    assert await ledger.window(job) is None
    assert await ledger.view(job) == LedgerView(window=None)


async def test_a_window_comes_back_as_it_was_written(ledger: Ledger, job: str) -> None:
    await ledger.write_window(job, Window(version=0, cursor=0, end=8, max_staleness=0))
    await ledger.write_window(job, WINDOW)
    assert await ledger.window(job) == WINDOW


async def test_the_view_shows_loaded_versions_groups_in_flight_and_staleness(ledger: Ledger, job: str) -> None:
    await ledger.write_window(job, WINDOW)
    await ledger.loaded(job, "rollout-0", 2)
    await ledger.loaded(job, "rollout-0", 3)
    await ledger.loaded(job, "rollout-1", 2)
    await ledger.groups(job, {24, 25}, set(), 60.0)
    await ledger.groups(job, {25}, {24, 23}, 60.0)  # a redelivered group counts once
    await ledger.trained(job, {"sums": [0, 1, 1], "lines": [2]})
    await ledger.trained(job, {"sums": [1], "boxes": []})
    await ledger.trained(job, {})
    assert await ledger.view(job) == LedgerView(
        window=WINDOW,
        loaded={"rollout-0": 3, "rollout-1": 2},
        in_flight=1,
        staleness={"sums": {0: 1, 1: 3}, "lines": {2: 1}},
    )


async def test_a_forgotten_job_is_unknown_again_and_others_stay(ledger: Ledger, job: str) -> None:
    for name in (job, f"{job}-b"):
        await ledger.write_window(name, WINDOW)
        await ledger.trained(name, {"sums": [0]})
    await ledger.forget(job)
    assert await ledger.view(job) == LedgerView(window=None)
    assert await ledger.window(f"{job}-b") == WINDOW


async def expires(ledger: Ledger, clock: FrozenClock, job: str) -> None:
    await ledger.groups(job, {0}, (), 10.0)
    await ledger.loaded(job, "rollout-0", 1)
    clock.advance(10.1)
    view = await ledger.view(job)
    assert (view.in_flight, view.loaded) == (0, {"rollout-0": 1})
    clock.advance(LOADED_S)
    assert (await ledger.view(job)).loaded == {}


async def test_entries_of_a_silent_replica_expire_in_memory(job: str) -> None:
    clock = FrozenClock(1000.0)
    await expires(MemoryLedger(clock), clock, job)


@pytest.mark.redis
async def test_entries_of_a_silent_replica_expire_in_redis(redis_server: RedisServer, job: str) -> None:
    clock = FrozenClock(1000.0)
    ledger = await RedisLedger.connect(redis_server.url, clock=clock)
    await expires(ledger, clock, job)
    await ledger.close()


@pytest.mark.redis
async def test_a_killed_server_is_unavailable_and_after_its_restart_everything_is_unknown(
    tmp_path: Path, job: str
) -> None:
    with contextlib.closing(RedisServer(tmp_path)) as server:
        server.start()
        ledger = await RedisLedger.connect(server.url)
        await ledger.write_window(job, WINDOW)
        server.kill()
        with pytest.raises(Unavailable, match=f"redis at 127.0.0.1:{server.port}"):
            await ledger.window(job)
        server.start()
        assert await ledger.window(job) is None
        await ledger.close()


async def test_a_silent_server_is_unavailable_and_the_password_stays_secret() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection and never answers
        port = silent.getsockname()[1]
        with pytest.raises(Unavailable) as error:
            await RedisLedger.connect(f"redis://:secret@127.0.0.1:{port}", connect_limit_s=0.1)
    assert str(error.value) == f"redis at 127.0.0.1:{port} did not answer within 0.1 s"


async def test_an_address_that_is_none_is_a_users_error() -> None:
    with pytest.raises(UserError, match="REDIS_URL"):
        await RedisLedger.connect("http://127.0.0.1")
