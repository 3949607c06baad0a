"""The fault-injecting bus strikes as it says, and the in-memory server has the limits of a real one."""

import asyncio

import pytest

from shared.bus.faulty import Faults, FaultyBus
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.bus.port import ID_WINDOW_S
from shared.errors import Corrupt, Unavailable
from shared.messages import JobChanged
from shared.runtime.retry import within
from tests.fakes import FrozenClock, make_id, make_prompt, make_scored

JOB = "job"


async def send(bus: MemoryBus | FaultyBus, ordinal: int = 0) -> int:
    return await bus.publish("prompts", JOB, "train", make_prompt(ordinal), make_id(JOB, ordinal))


async def test_a_call_waits_for_a_bus_that_is_away_and_goes_through_once_it_is_back() -> None:
    server, faults = MemoryServer(), Faults()
    bus = FaultyBus(MemoryBus(server), faults)
    faults.go_away()
    sending = asyncio.ensure_future(send(bus))
    await asyncio.sleep(0)
    assert not sending.done() and not server.streams["prompts"].entries
    faults.come_back()
    assert await sending == 1


async def test_past_its_patience_a_call_is_unavailable_and_a_fetch_has_nothing() -> None:
    faults = Faults()
    bus = FaultyBus(MemoryBus(), faults)
    await send(bus)
    queue = await bus.work("prompts", JOB, "train")
    faults.go_away()
    with pytest.raises(Unavailable, match=r"publish prompts.job.train: the bus does not take it"), within(0.01):
        await send(bus, 1)
    assert await queue.fetch(1, 0.01) == []
    faults.come_back()
    assert len(await queue.fetch(1, 0.01)) == 1


async def test_a_lost_ack_means_a_second_delivery() -> None:
    server, faults = MemoryServer(ack_wait_s=0.05), Faults(lost_acks=1.0)
    bus = FaultyBus(MemoryBus(server), faults)
    await send(bus)
    queue = await bus.work("prompts", JOB, "train")
    (first,) = await queue.fetch(1, 1.0)
    await first.ack()
    faults.lost_acks = 0.0
    (second,) = await queue.fetch(1, 1.0)
    assert second.deliveries == 2
    await second.ack()
    assert await bus.waiting("prompts", JOB, "train") == (0, 0)
    assert faults.injected["lost ack"] == 1


async def test_an_empty_answer_hides_what_is_there_once() -> None:
    faults = Faults(empty_fetches=1.0)
    bus = FaultyBus(MemoryBus(), faults)
    await bus.publish("scored", JOB, "train", make_scored(0), make_id(JOB, 0))
    reader = await bus.read_journal(JOB, "train")
    assert await reader.fetch(1, 1.0) == []
    faults.empty_fetches = 0.0
    assert [entry.sequence for entry in await reader.fetch(1, 1.0)] == [1]


@pytest.mark.parametrize(("forgotten", "stored"), [(False, 1), (True, 2)])
async def test_a_publish_whose_answer_was_late_is_stored_twice_only_if_its_id_is_forgotten(
    forgotten: bool, stored: int
) -> None:
    server = MemoryServer()
    bus = FaultyBus(MemoryBus(server), Faults(late_answers=1.0, ids_forgotten=forgotten))
    await send(bus)
    assert len(server.streams["prompts"].entries) == stored


async def test_hand_backs_of_others_count_as_deliveries_and_not_as_attempts() -> None:
    bus = FaultyBus(MemoryBus(), Faults(hand_backs=6))
    await send(bus)
    (delivery,) = await (await bus.work("prompts", JOB, "train")).fetch(1, 1.0)
    assert (delivery.deliveries, delivery.attempts) == (7, 1)


async def test_a_consumer_that_is_full_hands_out_nothing_new_until_something_is_acked() -> None:
    bus = MemoryBus(MemoryServer(max_in_hand=2))
    for ordinal in range(3):
        await send(bus, ordinal)
    queue = await bus.work("prompts", JOB, "train")
    held = await queue.fetch(3, 0.01)
    assert [one.sequence for one in held] == [1, 2]
    assert await queue.fetch(3, 0.01) == []
    await held[0].ack()
    assert [one.sequence for one in await queue.fetch(3, 0.01)] == [3]


async def test_an_id_is_known_for_its_window_and_a_restarted_server_knows_those_of_stored_messages() -> None:
    clock = FrozenClock()
    server = MemoryServer(clock=clock)
    bus = MemoryBus(server)
    assert [await send(bus, 0), await send(bus, 1)] == [1, 2]
    (first,) = await (await bus.work("prompts", JOB, "train")).fetch(1, 0.01)
    await first.ack()
    assert await send(bus, 0) == 1, "acked, and still known"
    server.restart()
    assert await send(bus, 0) == 3, "an id of a message that is gone was forgotten"
    assert await send(bus, 1) == 2
    clock.advance(ID_WINDOW_S)
    assert await send(bus, 1) == 4


async def test_a_server_that_lost_its_data_says_so_until_somebody_sets_it_up_again() -> None:
    server = MemoryServer()
    bus = MemoryBus(server)
    queue, created = await bus.work("prompts", JOB, "train"), (await bus.stream_state("scored")).created
    await bus.put("key", b"value")
    server.wipe()
    for call in (send(bus), bus.announce(JobChanged(job=JOB, state="done")), bus.get("key"), bus.put("key", b"")):
        with pytest.raises(Corrupt, match="is gone: the server in memory has lost its data"):
            await call
    assert await queue.fetch(1, 0.01) == []
    again = MemoryBus(server)
    assert await again.get("key") is None
    assert (await again.stream_state("scored")).created != created
