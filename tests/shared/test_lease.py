"""The lease of the one active instance: handed on, taken over from a silent one, and no clock compared."""

import asyncio
import time

import pytest

from shared.bus.faulty import Faults, FaultyBus
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.errors import Refused
from shared.jobs import lease
from shared.jobs.lease import while_leading
from tests.fakes import eventually

LEASE_S = 0.3


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_S", LEASE_S)
    monkeypatch.setattr(lease, "POLL_S", 0.01)


class Instances:
    """Instances of one service on one server; `led` names them in the order in which they began to lead."""

    def __init__(self) -> None:
        self.server, self.led = MemoryServer(), list[str]()

    def start(self, name: str, faults: Faults | None = None) -> "asyncio.Task[None]":
        async def work() -> None:
            self.led.append(name)
            await asyncio.Event().wait()

        bus = FaultyBus(MemoryBus(self.server), faults or Faults())
        return asyncio.create_task(while_leading(bus, "learner", name, work))

    async def until_led(self, *names: str) -> None:
        async def has_led() -> bool:
            return self.led == list(names)

        await eventually(has_led)


async def end(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_standby_leads_once_the_first_has_been_silent_for_the_lease() -> None:
    instances, faults = Instances(), Faults()
    first = instances.start("first", faults)
    await instances.until_led("first")
    second = instances.start("second")
    await asyncio.wait({second}, timeout=3 * LEASE_S)
    assert instances.led == ["first"], "a lease that is renewed is not taken"
    faults.go_away()  # the first one is cut off, or sleeps
    await instances.until_led("first", "second")
    faults.come_back()
    with pytest.raises(Refused):
        await first
    await end(second)


async def test_a_clock_that_is_an_hour_ahead_takes_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    instances = Instances()
    first = instances.start("first")
    await instances.until_led("first")
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + 3600.0)
    second = instances.start("second")
    await asyncio.wait({second}, timeout=3 * LEASE_S)
    assert instances.led == ["first"] and not first.done()
    await end(first, second)


async def test_while_the_bus_is_away_nobody_s_lease_runs_out() -> None:
    instances, faults = Instances(), Faults()
    first = instances.start("first", faults)
    await instances.until_led("first")
    second = instances.start("second", faults)
    faults.go_away()
    await asyncio.wait({first, second}, timeout=3 * LEASE_S)
    faults.come_back()
    await asyncio.wait({first, second}, timeout=3 * LEASE_S)
    assert instances.led == ["first"] and not first.done()
    await end(first, second)


async def test_an_instance_that_was_killed_and_comes_back_by_its_name_leads_at_once() -> None:
    instances = Instances()
    await MemoryBus(instances.server).put("lease.learner", lease._lease("first"))
    first = instances.start("first")
    await instances.until_led("first")
    await end(first)
