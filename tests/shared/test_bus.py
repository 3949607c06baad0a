"""The contract of the bus, on both adapters; what only a real server can show is in test_nats_bus.py."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.bus.port import Bus, Delivery, JournalEntry, JournalReader, WorkQueue
from shared.errors import Corrupt, Refused, Unavailable
from shared.log.reading import read_events, read_to
from shared.messages import BlobRef, DeadLetter, EndOfOrder, Heartbeat, JobChanged, Kind, WeightsPublished
from shared.runtime.retry import is_spent, within
from tests.conftest import ACK_WAIT_S, Connect
from tests.fakes import FrozenClock, eventually, make_id, make_prompt, make_scored, make_voided

MANIFEST = BlobRef(digest="d" * 64, size=0)

LIMIT_S = 5.0
SOON_S = 0.05


async def send_prompts(bus: Bus, job: str, count: int, kind: Kind = "train") -> None:
    for ordinal in range(count):
        message = make_prompt(ordinal, job=job, kind=kind)
        await bus.publish("prompts", job, kind, message, make_id(job, ordinal, kind))


async def send_records(bus: Bus, job: str, ordinals: Sequence[int], kind: Kind = "train") -> list[int]:
    return [
        await bus.publish("scored", job, kind, make_scored(o, job=job, kind=kind), make_id(job, o, kind))
        for o in ordinals
    ]


async def take(queue: WorkQueue, count: int) -> list[Delivery]:
    """Fetch until `count` messages are in hand."""
    taken: list[Delivery] = []
    async with asyncio.timeout(LIMIT_S):
        while len(taken) < count:
            taken += await queue.fetch(count - len(taken), 1.0)
    return taken


async def read(reader: JournalReader, count: int) -> list[JournalEntry]:
    entries: list[JournalEntry] = []
    async with asyncio.timeout(LIMIT_S):
        while len(entries) < count:
            entries += await reader.fetch(count - len(entries), 1.0)
    return entries


def ordinals(deliveries: Sequence[Delivery]) -> list[int]:
    return [delivery.message.ordinal for delivery in deliveries]


async def test_a_published_message_comes_back_equal_with_its_subject_and_sequence(bus: Bus, job: str) -> None:
    prompt = make_prompt(7, job=job)
    sequence = await bus.publish("prompts", job, "train", prompt, make_id(job, 7))
    (delivery,) = await take(await bus.work("prompts", job, "train"), 1)
    assert delivery.message == prompt
    assert (delivery.subject, delivery.sequence, delivery.deliveries) == (f"prompts.{job}.train", sequence, 1)


async def test_a_fetch_returns_what_is_there_without_waiting_for_the_rest(bus: Bus, job: str) -> None:
    await send_prompts(bus, job, 3)
    queue = await bus.work("prompts", job, "train")
    async with asyncio.timeout(LIMIT_S):
        deliveries = await queue.fetch(100, 60.0)
    assert ordinals(deliveries) == [0, 1, 2]


async def test_a_waiting_fetch_returns_with_the_first_message_that_comes(bus: Bus, job: str) -> None:
    queue = await bus.work("prompts", job, "train")
    waiting = asyncio.ensure_future(queue.fetch(100, 60.0))
    await asyncio.sleep(0)
    await send_prompts(bus, job, 1)
    async with asyncio.timeout(LIMIT_S):
        assert ordinals(await waiting) == [0]


async def test_a_fetch_of_an_empty_queue_ends_with_nothing(bus: Bus, job: str) -> None:
    queue = await bus.work("prompts", job, "train")
    assert list(await queue.fetch(4, SOON_S)) == []
    assert list(await queue.fetch(4, 0.0)) == []


async def test_an_acked_message_is_gone(bus: Bus, job: str) -> None:
    await send_prompts(bus, job, 2)
    queue = await bus.work("prompts", job, "train")
    for delivery in await take(queue, 2):
        await delivery.ack()

    async def nothing_waits() -> bool:
        return await bus.waiting("prompts", job, "train") == (0, 0)

    await eventually(nothing_waits)
    assert list(await queue.fetch(4, 2 * ACK_WAIT_S)) == []


async def test_a_message_without_an_ack_is_delivered_again(bus: Bus, job: str) -> None:
    await send_prompts(bus, job, 1)
    queue = await bus.work("prompts", job, "train")
    (first,) = await take(queue, 1)
    (second,) = await take(queue, 1)
    assert (first.deliveries, second.deliveries) == (1, 2)
    assert first.sequence == second.sequence


async def test_a_kept_message_is_not_delivered_again(bus: Bus, job: str) -> None:
    await send_prompts(bus, job, 1)
    queue = await bus.work("prompts", job, "train")
    (delivery,) = await take(queue, 1)
    for _ in range(8):
        assert list(await queue.fetch(1, ACK_WAIT_S / 4)) == []
        await delivery.keep()


async def test_a_message_handed_back_goes_to_the_next_fetcher_at_once(connect: Connect, job: str) -> None:
    first, second = await connect(), await connect()
    await send_prompts(first, job, 1)
    (delivery,) = await take(await first.work("prompts", job, "train"), 1)
    await delivery.hand_back()
    (again,) = await take(await second.work("prompts", job, "train"), 1)
    assert again.deliveries == 2


async def test_a_message_handed_back_with_a_delay_comes_after_it(bus: Bus, job: str) -> None:
    await send_prompts(bus, job, 1)
    queue = await bus.work("prompts", job, "train")
    (delivery,) = await take(queue, 1)
    await delivery.hand_back(0.2)
    assert list(await queue.fetch(1, SOON_S)) == []
    assert (await take(queue, 1))[0].deliveries == 2


async def test_a_late_ack_removes_the_message(bus: Bus, job: str) -> None:
    await send_prompts(bus, job, 1)
    queue = await bus.work("prompts", job, "train")
    (first,) = await take(queue, 1)
    await take(queue, 1)
    await first.ack()

    async def nothing_waits() -> bool:
        return await bus.waiting("prompts", job, "train") == (0, 0)

    await eventually(nothing_waits)


async def test_a_known_id_is_stored_once(bus: Bus, job: str) -> None:
    first = await bus.publish("prompts", job, "train", make_prompt(0, job=job), make_id(job, 0))
    second = await bus.publish("prompts", job, "train", make_prompt(0, job=job), make_id(job, 0))
    assert first == second
    assert await bus.waiting("prompts", job, "train") == (1, 0)


async def test_two_fetchers_share_the_work_and_get_each_message_once(connect: Connect, job: str) -> None:
    first, second = await connect(), await connect()
    queues = [await one.work("prompts", job, "train") for one in (first, second)]
    await send_prompts(first, job, 20)
    taken = [ordinals(await queue.fetch(10, 1.0)) for queue in queues]
    assert sorted(taken[0] + taken[1]) == list(range(20))


async def test_waiting_counts_what_is_stored_and_what_is_in_hand(bus: Bus, job: str) -> None:
    await send_prompts(bus, job, 3)
    assert await bus.waiting("prompts", job, "train") == (3, 0)
    await take(await bus.work("prompts", job, "train"), 1)
    assert await bus.waiting("prompts", job, "train") == (2, 1)


async def test_train_and_eval_are_queues_of_their_own(bus: Bus, job: str) -> None:
    await send_prompts(bus, job, 1, "train")
    await send_prompts(bus, job, 1, "eval")
    (delivery,) = await take(await bus.work("prompts", job, "eval"), 1)
    assert delivery.message.kind == "eval"


async def test_the_journal_is_read_in_the_order_of_its_sequences(bus: Bus, job: str) -> None:
    sequences = await send_records(bus, job, [3, 0, 2])
    entries = await read(await bus.read_journal(job, "train"), 3)
    assert [entry.sequence for entry in entries] == sequences
    assert [entry.message.prompt.ordinal for entry in entries] == [3, 0, 2]


async def test_a_journal_reader_sees_what_is_published_later(bus: Bus, job: str) -> None:
    reader = await bus.read_journal(job, "train")
    assert list(await reader.fetch(4, SOON_S)) == []
    await send_records(bus, job, [0])
    assert len(await read(reader, 1)) == 1


async def test_a_journal_reader_skips_other_jobs_and_kinds(bus: Bus, job: str) -> None:
    await send_records(bus, job, [0])
    await send_records(bus, f"{job}-b", [1])
    await send_records(bus, job, [2], "eval")
    (last,) = await send_records(bus, job, [3])
    entries = await read(await bus.read_journal(job, "train"), 2)
    assert [entry.message.prompt.ordinal for entry in entries] == [0, 3]
    assert entries[-1].sequence == last


async def test_the_journal_is_read_again_from_a_sequence(bus: Bus, job: str) -> None:
    sequences = await send_records(bus, job, [0, 1, 2])
    entries = await read(await bus.read_journal(job, "train", start=sequences[1]), 2)
    assert [entry.sequence for entry in entries] == sequences[1:]


async def test_a_durable_reader_goes_on_behind_its_ack(bus: Bus, job: str) -> None:
    sequences = await send_records(bus, job, [0, 1, 2])
    assert await bus.floor("scored", job, "train", "monitor") == 0
    reader = await bus.read_journal(job, "train", durable="monitor")
    await read(reader, 3)
    await reader.ack(sequences[1])
    await reader.close()
    assert await bus.floor("scored", job, "train", "monitor") == sequences[1]
    again = await bus.read_journal(job, "train", durable="monitor")
    assert [entry.sequence for entry in await read(again, 1)] == [sequences[2]]


async def test_a_purge_takes_only_the_named_job_and_what_is_below(bus: Bus, job: str) -> None:
    other = f"{job}-b"
    mine = await send_records(bus, job, [0])
    theirs = await send_records(bus, other, [0, 1])
    mine += await send_records(bus, job, [1])
    await bus.purge("scored", job, "train", below=mine[1])
    assert [e.sequence for e in await read(await bus.read_journal(other, "train"), 2)] == theirs
    assert [e.sequence for e in await read(await bus.read_journal(job, "train", start=mine[1]), 1)] == [mine[1]]


@pytest.mark.parametrize("below", [0, 1])
async def test_a_purge_below_the_first_sequence_takes_nothing(bus: Bus, job: str, below: int) -> None:
    sequences = await send_records(bus, job, [0, 1])
    await bus.purge("scored", job, "train", below=below)
    assert [entry.sequence for entry in await read(await bus.read_journal(job, "train"), 2)] == sequences


async def test_a_reader_from_below_a_purge_is_told_so(bus: Bus, job: str) -> None:
    sequences = await send_records(bus, job, [0, 1, 2])
    await bus.purge("scored", job, "train", below=sequences[2])
    with pytest.raises(Corrupt, match=f"purged below sequence {sequences[2]}, expected it from {sequences[1]}"):
        await bus.read_journal(job, "train", start=sequences[1])


async def test_a_reader_that_a_purge_has_overtaken_is_told_so(bus: Bus, job: str) -> None:
    reader = await bus.read_journal(job, "train")
    sequences = await send_records(bus, job, [0, 1])
    await bus.purge("scored", job, "train", below=sequences[1])
    with pytest.raises(Corrupt, match="purged below"):
        await read(reader, 1)


async def test_a_purge_of_another_job_does_not_disturb_a_reader(bus: Bus, job: str) -> None:
    await send_records(bus, f"{job}-b", [0, 1])
    (start,) = await send_records(bus, job, [0])
    await bus.purge("scored", f"{job}-b", "train")
    assert [e.sequence for e in await read(await bus.read_journal(job, "train", start=start), 1)] == [start]
    assert len(await read(await bus.read_journal(job, "train"), 1)) == 1


async def test_a_start_past_the_end_of_the_journal_is_an_error(bus: Bus, job: str) -> None:
    (sequence,) = await send_records(bus, job, [0])
    await bus.read_journal(job, "train", start=sequence + 1)
    with pytest.raises(Corrupt, match="lost or recreated"):
        await bus.read_journal(job, "train", start=sequence + 1000)


async def test_a_start_that_is_named_holds_whatever_was_acked(bus: Bus, job: str) -> None:
    sequences = await send_records(bus, job, [0, 1, 2])
    reader = await bus.read_journal(job, "train", durable="monitor")
    await reader.ack(sequences[2])
    again = await bus.read_journal(job, "train", start=sequences[1], durable="monitor")
    assert [entry.sequence for entry in await read(again, 2)] == sequences[1:]


async def test_events_are_read_in_order_up_to_the_last_one_there_is(bus: Bus, job: str) -> None:
    assert await bus.last_sequence("events", job, "*") == 0
    changed = [JobChanged(job=job, state=state) for state in ("queued", "running")]
    ended = EndOfOrder(job=job, kind="train", total=3)
    sequences = [await bus.announce(event) for event in (*changed, ended)]
    await bus.announce(JobChanged(job=f"{job}-b", state="queued"))
    assert await bus.last_sequence("events", job, "job") == sequences[1]
    assert await bus.last_sequence("events", job, "*") == sequences[2]
    found = [entry async for entry in read_to(await bus.read_events(job), sequences[2])]
    assert [(entry.message, entry.sequence) for entry in found] == list(zip([*changed, ended], sequences, strict=True))
    assert [event async for event, _ in read_events(bus, job, "end-of-order")] == [ended]
    assert [event async for event, _ in read_events(bus, job, "job", start=sequences[1])] == changed[1:]


async def test_no_event_is_dropped_however_many_there_are(bus: Bus, job: str) -> None:
    for start in range(0, 1_100, 100):
        await asyncio.gather(*(bus.announce(JobChanged(job=job, state=str(start + k))) for k in range(100)))
    states = [event.state async for event, _ in read_events(bus, job, "job")]
    assert sorted(states, key=int) == [str(number) for number in range(1_100)]


async def test_a_reader_of_several_names_that_is_behind_misses_nothing_when_one_of_them_is_purged(
    bus: Bus, job: str
) -> None:
    """Read: version 0. Not read: a change of the job, version 1. Versions below 1 are purged, then all."""
    reader = await bus.read_events(job, "weights", "job")
    old = await bus.announce(weights(job, 0))
    assert [entry.message for entry in await read(reader, 1)] == [weights(job, 0)]
    states = [JobChanged(job=job, state="running")]
    await bus.announce(states[0])
    await bus.announce(EndOfOrder(job=job, kind="train", total=3))  # of another name
    await bus.announce(weights(job, 1))
    await bus.purge("events", job, "weights", below=old + 1)
    assert [entry.message for entry in await read(reader, 2)] == [*states, weights(job, 1)]
    states = [JobChanged(job=job, state="done")]
    await bus.announce(states[0])
    await bus.purge("events", job, "weights", below=reader.position + 1)
    assert [entry.message for entry in await read(reader, 1)] == states
    await reader.close()


async def test_a_reader_of_events_from_below_a_purge_is_told_so(bus: Bus, job: str) -> None:
    sequences = [await bus.announce(JobChanged(job=job, state=state)) for state in ("queued", "running")]
    reader = await bus.read_events(job, durable="monitor")
    await reader.ack(sequences[1])
    assert await bus.floor("events", job, "*", "monitor") == sequences[1]
    await bus.purge("events", job, "job", below=sequences[1])
    with pytest.raises(Corrupt, match=f"purged below sequence {sequences[1]}"):
        await bus.read_events(job, start=sequences[0])
    assert [event.state async for event, _ in bus_events(bus, job)] == ["running"]


async def bus_events(bus: Bus, job: str) -> AsyncIterator[tuple[JobChanged, int]]:
    """What a follower that needs no whole history hears: everything that is left."""
    async for event, sequence in bus.events(job, "job"):
        yield event, sequence
        return


async def test_voids_ride_in_the_journal(bus: Bus, job: str) -> None:
    await bus.publish("scored", job, "train", make_voided(4, job=job), make_id(job, 4))
    (entry,) = await read(await bus.read_journal(job, "train"), 1)
    assert entry.message == make_voided(4, job=job)


def weights(job: str, version: int) -> WeightsPublished:
    return WeightsPublished(
        job=job,
        version=version,
        incarnation=0,
        cursor=0,
        window_end=8,
        max_staleness=0,
        total_steps=4,
        manifest=MANIFEST,
        digest="d",
    )


async def test_the_last_event_is_the_newest_of_its_name(bus: Bus, job: str) -> None:
    assert await bus.last_event(job, "weights") is None
    await bus.announce(weights(job, 0))
    newest = await bus.announce(weights(job, 1))
    await bus.announce(JobChanged(job=job, state="running"))
    assert await bus.last_event(job, "weights") == (weights(job, 1), newest)


async def test_an_announcement_that_names_an_old_state_is_refused(bus: Bus, job: str) -> None:
    first = await bus.announce(weights(job, 0), expected_last=0)
    second = await bus.announce(weights(job, 1), expected_last=first)
    with pytest.raises(Refused, match=f"is at sequence {second}, expected {first}"):
        await bus.announce(weights(job, 2), expected_last=first)
    assert await bus.last_event(job, "weights") == (weights(job, 1), second)


async def test_events_start_behind_a_sequence_and_go_on_with_new_ones(bus: Bus, job: str) -> None:
    first = await bus.announce(JobChanged(job=job, state="queued"))
    await bus.announce(JobChanged(job=f"{job}-b", state="queued"))
    second = await bus.announce(JobChanged(job=job, state="running"))
    async with asyncio.timeout(LIMIT_S), contextlib.aclosing(bus.events(job, after=first)) as events:
        assert await anext(events) == (JobChanged(job=job, state="running"), second)
        third = await bus.announce(weights(job, 0))
        assert await anext(events) == (weights(job, 0), third)


async def test_events_of_two_names_come_in_their_order(bus: Bus, job: str) -> None:
    await bus.announce(JobChanged(job=job, state="queued"))
    await bus.announce(weights(job, 0))
    await bus.announce(JobChanged(job=job, state="running"))
    async with asyncio.timeout(LIMIT_S), contextlib.aclosing(bus.events(job, "weights", "job")) as events:
        seen = [(await anext(events))[0] for _ in range(3)]
    assert seen == [JobChanged(job=job, state="queued"), weights(job, 0), JobChanged(job=job, state="running")]


async def test_events_of_one_name_leave_the_others_out(bus: Bus, job: str) -> None:
    await bus.announce(JobChanged(job=job, state="queued"))
    await bus.announce(weights(job, 0))
    async with asyncio.timeout(LIMIT_S), contextlib.aclosing(bus.events(job, "weights")) as events:
        assert (await anext(events))[0] == weights(job, 0)


async def test_a_record_is_written_by_compare_and_set(bus: Bus, job: str) -> None:
    key = f"job.{job}"
    assert await bus.get(key) is None
    first = await bus.put(key, b"one", revision=0)
    with pytest.raises(Refused, match="expected 0"):
        await bus.put(key, b"two", revision=0)
    second = await bus.put(key, b"two", revision=first)
    with pytest.raises(Refused):
        await bus.put(key, b"three", revision=first)
    record = await bus.get(key)
    assert record is not None and (record.value, record.revision) == (b"two", second)
    assert await bus.put(key, b"") > second
    record = await bus.get(key)
    assert record is not None and record.value == b""


async def test_of_many_writers_of_one_revision_one_wins(connect: Connect, job: str) -> None:
    buses = [await connect() for _ in range(4)]
    results = await asyncio.gather(
        *(one.put(f"lease.{job}", b"%d" % place, revision=0) for place, one in enumerate(buses)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, Refused) for result in results) == 3


async def test_keys_are_listed_by_prefix(bus: Bus, job: str) -> None:
    for key in (f"job.{job}", f"job.{job}-b", f"ordinal.{job}"):
        await bus.put(key, b"x")
    assert await bus.keys(f"job.{job}") == [f"job.{job}", f"job.{job}-b"]
    assert f"ordinal.{job}" in await bus.keys()


async def test_records_are_told_as_they_are_written_each_with_its_newest_value(bus: Bus, job: str) -> None:
    await bus.put(f"job.{job}.a", b"old")
    await bus.put(f"job.{job}.a", b"new")
    await bus.put(f"lease.{job}.x", b"other")
    async with contextlib.aclosing(bus.records(f"job.{job}.")) as told:
        key, found = await anext(told)
        assert (key, found.value) == (f"job.{job}.a", b"new")
        revision = await bus.put(f"job.{job}.b", b"later")
        key, found = await anext(told)
        assert (key, found.value, found.revision) == (f"job.{job}.b", b"later", revision)
        await bus.put(f"job.{job}.a", b"")
        key, found = await anext(told)
        assert (key, found.value) == (f"job.{job}.a", b"")


async def test_an_erased_job_leaves_nothing_and_takes_nothing_of_another_along(bus: Bus, job: str) -> None:
    other = f"{job}-b"
    for name in (job, other):
        await bus.work("prompts", name, "train")
        for stream in ("prompts", "completions", "scored", "dead"):
            await bus.publish(stream, name, "train", make_voided(0, job=name), f"{stream}/{name}")
        await bus.announce(EndOfOrder(job=name, kind="train", total=1, open={}))
        await bus.put(f"ordinal.{name}", b"7")
    await bus.purge("scored", job, "train", below=1)  # a purge leaves a record of its own
    await bus.put(f"job.{job}", b"x")
    await bus.erase_job(job)
    for stream in ("prompts", "completions", "scored", "dead"):
        assert await bus.stored(stream, job, "train") == 0
        assert await bus.stored(stream, other, "train") == 1
    assert await bus.last_event(job, "end-of-order") is None
    assert await bus.last_event(other, "end-of-order") is not None
    assert [key for key in await bus.keys() if job in key.split(".")] == [f"job.{job}"]
    found = await bus.get(f"ordinal.{other}")
    assert found is not None and found.value == b"7"


async def test_heartbeats_reach_who_listens(connect: Connect, job: str) -> None:
    service, monitor = await connect(), await connect()
    beat = Heartbeat(service="reward", replica=job, pid=1, state="idle", sent_at=3.0)
    heard: list[Heartbeat] = []

    async def listen() -> None:
        async with contextlib.aclosing(monitor.heartbeats()) as beats:
            async for one in beats:
                heard.append(one)

    listener = asyncio.ensure_future(listen())

    async def was_heard() -> bool:
        await service.beat(beat)  # a beat before the listener is there is lost, as it may be
        return beat in heard

    await eventually(was_heard)
    listener.cancel()
    await asyncio.wait({listener})


async def test_the_state_of_a_stream_follows_its_messages(bus: Bus, job: str) -> None:
    before = await bus.stream_state("scored")
    (sequence,) = await send_records(bus, job, [0])
    after = await bus.stream_state("scored")
    assert (after.last_sequence, after.messages) == (sequence, before.messages + 1)
    assert after.bytes > before.bytes
    assert after.created == before.created


async def test_a_forgotten_job_leaves_no_work_behind(bus: Bus, job: str) -> None:
    other = f"{job}-b"
    queue = await bus.work("prompts", job, "train")
    for name in (job, other):
        await send_prompts(bus, name, 2)
    (delivery,) = await take(queue, 1)
    await bus.forget_job(job)
    await delivery.ack()
    assert await bus.waiting("prompts", job, "train") == (0, 0)
    assert await bus.waiting("prompts", other, "train") == (2, 0)
    assert list(await queue.fetch(1, SOON_S)) == []
    await bus.forget_job(job)


async def test_a_cancelled_fetch_loses_nothing(bus: Bus, job: str) -> None:
    queue = await bus.work("prompts", job, "train")
    fetch = asyncio.ensure_future(queue.fetch(1, 60.0))
    await asyncio.sleep(SOON_S)
    fetch.cancel()
    await asyncio.wait({fetch})
    await send_prompts(bus, job, 1)
    assert ordinals(await take(queue, 1)) == [0]


async def test_redelivery_in_memory_goes_by_the_injected_clock() -> None:
    clock = FrozenClock()
    bus = MemoryBus(MemoryServer(clock=clock, ack_wait_s=5.0))
    await send_prompts(bus, "j", 1)
    queue = await bus.work("prompts", "j", "train")
    await take(queue, 1)
    clock.advance(4.9)
    assert list(await queue.fetch(1, SOON_S)) == []
    clock.advance(0.2)
    assert (await take(queue, 1))[0].deliveries == 2


async def test_drain_in_memory_waits_for_the_last_ack() -> None:
    bus = MemoryBus()
    await send_prompts(bus, "j", 1)
    with pytest.raises(Unavailable, match="'prompts': 1"):
        await bus.server.drain(SOON_S)
    (delivery,) = await take(await bus.work("prompts", "j", "train"), 1)
    draining = asyncio.ensure_future(bus.server.drain(LIMIT_S))
    await delivery.ack()
    await draining


@pytest.fixture(params=["memory", pytest.param("nats", marks=pytest.mark.nats)])
async def small_bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    """A bus whose prompts hold a few messages."""
    if request.param == "memory":
        yield MemoryBus(MemoryServer(max_bytes={"prompts": 1000}))
        return
    from shared.bus.nats.bus import NatsBus

    bus = await NatsBus.connect(request.getfixturevalue("own_nats_server").url, stream_bytes={"prompts": 2000})
    yield bus
    await bus.close()


async def test_a_full_stream_is_waited_for_until_there_is_room(small_bus: Bus) -> None:
    sending = asyncio.ensure_future(send_prompts(small_bus, "j", 10))
    done, _ = await asyncio.wait({sending}, timeout=10 * SOON_S)
    assert not done
    queue = await small_bus.work("prompts", "j", "train")
    seen: list[int] = []
    async with asyncio.timeout(4 * LIMIT_S):
        while len(seen) < 10:
            for delivery in await queue.fetch(10, 1.0):
                seen += ordinals([delivery])
                await delivery.ack()
        await sending
    assert seen == list(range(10))


async def test_who_cannot_wait_for_room_in_a_full_stream_gets_unavailable(small_bus: Bus) -> None:
    with pytest.raises(Unavailable, match="prompts"), within(0.3):
        await send_prompts(small_bus, "j", 10)


async def test_a_message_that_was_handed_back_was_no_attempt_and_one_that_was_lost_was(bus: Bus, job: str) -> None:
    queue = await bus.work("prompts", job, "train")
    await send_prompts(bus, job, 1)
    for _ in range(7):
        (delivery,) = await take(queue, 1)
        assert delivery.attempts == 1
        await delivery.hand_back()
    (delivery,) = await take(queue, 1)
    assert (delivery.deliveries, delivery.attempts, is_spent(delivery)) == (8, 1, False)
    del delivery  # its holder dies
    (delivery,) = await take(queue, 1)
    assert (delivery.deliveries, delivery.attempts) == (9, 2)
    await delivery.hand_back(counts=True)
    (delivery,) = await take(queue, 1)
    assert (delivery.deliveries, delivery.attempts) == (10, 3)
    await delivery.ack()


async def test_dead_letters_of_a_job_are_read_newest_last(bus: Bus, job: str) -> None:
    for number in range(5):
        for kind in ("train", "eval"):
            letter = DeadLetter(
                job=job, subject=f"prompts.{job}.{kind}", ordinal=number, deliveries=6, reason="died", service="rollout"
            )
            await bus.publish("dead", job, kind, letter, f"{job}/{kind}/{number}")
    letters = await bus.dead_letters(job, 4)
    assert [(letter.ordinal, letter.subject.split(".")[2]) for letter in letters] == [
        (3, "train"),
        (3, "eval"),
        (4, "train"),
        (4, "eval"),
    ]
    assert list(await bus.dead_letters("nobody", 4)) == []
