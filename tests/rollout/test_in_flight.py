"""Groups in flight in the ledger: one call for all that changed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection

import msgspec

from services.rollout.in_flight import InFlight
from shared.errors import Unavailable
from shared.ledger.memory import MemoryLedger
from shared.messages import Prompt
from tests.rollout.helpers import make_prompt


def prompt(ordinal: int) -> Prompt:
    return make_prompt(ordinal=ordinal)


class CountingLedger(MemoryLedger):
    """Counts its calls; while `is_away` it answers none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.is_away = 0, False

    async def groups(self, job: str, started: Collection[int], ended: Collection[int], deadline_s: float) -> None:
        self.calls += 1
        if self.is_away:
            raise Unavailable("redis did not answer")
        await super().groups(job, started, ended, deadline_s)


@contextlib.asynccontextmanager
async def telling(ledger: CountingLedger) -> AsyncIterator[InFlight]:
    in_flight = InFlight(ledger, "job", 60.0)
    task = asyncio.create_task(in_flight.keep_telling())
    try:
        yield in_flight
    finally:
        task.cancel()
        await asyncio.wait({task})


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_groups_that_begin_together_are_told_in_one_call() -> None:
    ledger = CountingLedger()
    async with telling(ledger) as in_flight:
        for ordinal in range(32):
            in_flight.start(prompt(ordinal))
        await settle()
        assert (ledger.calls, (await ledger.view("job")).in_flight) == (1, 32)
        for ordinal in range(31):
            in_flight.end(prompt(ordinal))
        await settle()
        assert (ledger.calls, (await ledger.view("job")).in_flight) == (2, 1)


async def test_a_group_that_comes_again_before_its_end_was_told_is_in_flight_and_the_other_way_round() -> None:
    ledger = CountingLedger()
    in_flight = InFlight(ledger, "job", 60.0)
    in_flight.start(prompt(1))
    in_flight.start(prompt(2))
    await in_flight.tell()
    in_flight.end(prompt(1))
    in_flight.start(prompt(1))
    in_flight.start(prompt(3))
    in_flight.end(prompt(3))
    in_flight.end(prompt(2))
    await in_flight.tell()
    await in_flight.tell()
    assert (ledger.calls, (await ledger.view("job")).in_flight) == (2, 1)


async def test_held_out_groups_are_not_counted() -> None:
    ledger = CountingLedger()
    in_flight = InFlight(ledger, "job", 60.0)
    in_flight.start(msgspec.structs.replace(prompt(0), kind="eval", version=3))
    await in_flight.tell()
    assert ledger.calls == 0


async def test_a_ledger_that_is_away_stops_nothing() -> None:
    ledger = CountingLedger()
    async with telling(ledger) as in_flight:
        ledger.is_away = True
        in_flight.start(prompt(1))
        await settle()
        ledger.is_away = False
        in_flight.start(prompt(2))
        await settle()
        assert (ledger.calls, (await ledger.view("job")).in_flight) == (2, 1)
