"""Completions in, journal records out, over the in-memory bus."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.reward.handlers import WORKERS, Deps, consume, group_samples
from services.reward.metrics import instruments
from services.reward.scoring import Scorer
from services.reward.workers.pool import WORKER, Pool
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.bus.port import DELIVERY_BUDGET, Bus
from shared.messages import Completed, DeadLetter, RewardSpec, Scored, Voided, decode, message_id
from shared.runtime.retry import Retry
from tests.fakes import eventually
from tests.limits import open_files
from tests.reward.groups import group
from tests.weather import through_weather, under

weather = under("empty answers", "lost acks", "handed back")
pytestmark = pytest.mark.asyncio(loop_scope="module")

RIGHT, WRONG = "\\boxed{4}", "\\boxed{5}"


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> MemoryServer:
    return MemoryServer(ack_wait_s=2.0)


async def _publish(server: MemoryServer, *groups: Completed) -> None:
    bus = MemoryBus(server)
    await bus.work("completions", "job-1", groups[0].prompt.kind)
    for one in groups:
        prompt = one.prompt
        await bus.publish("completions", prompt.job, prompt.kind, one, f"{prompt.kind}/{prompt.ordinal}")


@contextlib.asynccontextmanager
async def _replica(
    server: MemoryServer, pool: Pool, kind: str = "train", retry: Retry | None = None
) -> AsyncIterator[Bus]:
    bus = through_weather(MemoryBus(server))
    counters = instruments()
    deps = Deps(bus, Scorer(pool, counters), counters, "reward-1", retry=retry or Retry())
    task = asyncio.ensure_future(consume(await bus.work("completions", "job-1", kind), deps, groups_in_flight=4))
    try:
        yield bus
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _records(server: MemoryServer, count: int, kind: str = "train") -> list[Scored | Voided]:
    reader = await MemoryBus(server).read_journal("job-1", kind)
    found: list[Scored | Voided] = []
    end = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} records, expected {count}"
        found += [entry.message for entry in await reader.fetch(100, 0.5)]
    await server.drain()
    assert await reader.fetch(1, 0.0) == []
    return found


async def test_a_group_becomes_one_record_with_one_reward_a_completion(server: MemoryServer, pool: Pool) -> None:
    sent = group([RIGHT, WRONG, RIGHT, "no answer"])
    await _publish(server, sent)
    async with _replica(server, pool):
        (record,) = await _records(server, 1)
    assert isinstance(record, Scored) and record.group == sent
    assert [reward.final for reward in record.rewards] == [1.0, 0.0, 1.0, 0.0]
    assert record.replica == "reward-1" and record.finished_at >= record.started_at > 0


async def test_many_groups_are_scored_once_each(server: MemoryServer, pool: Pool) -> None:
    await _publish(server, *(group([RIGHT, WRONG], ordinal=ordinal) for ordinal in range(40)))
    async with _replica(server, pool), _replica(server, pool):
        records = await _records(server, 40)
    assert sorted(record.prompt.ordinal for record in records) == list(range(40))


async def test_evaluation_groups_name_their_version_and_report_fixed_thresholds(
    server: MemoryServer, pool: Pool
) -> None:
    truth = "so\n<answer>\n[{'bbox_2d': [0, 0, 500, 500], 'label': 'cat'}]\n</answer>"
    spec = RewardSpec(
        verifier="detection",
        answer="",
        ground_truth=truth,
        params={"det_verifier_normalized": True, "det_reward_ratio": {"iou_max_label_first": 1.0}},
        step=90,
        total_steps=100,
        options={"iou_threshold": "dynamic", "iou_schedule": [[0.5, 0.5], [1.0, 0.75]], "coordinates": "auto"},
    )
    # Half of 308 x 224 pixels is half of 1000 x 1000, less a bit: IoU 0.4 with a box 125 high (of 224).
    text = "so\n<answer>\n[{'bbox_2d': [0, 0, 154, 70], 'label': 'cat'}]\n</answer>"
    await _publish(server, group([text, text.replace("70", "112")], reward=spec, kind="eval"))
    async with _replica(server, pool, "eval"):
        (record,) = await _records(server, 1, "eval")
    assert isinstance(record, Scored)
    low, full = record.rewards
    assert full.accuracy == 1.0 and low.accuracy == 0.0  # IoU 312/500 = 0.624 is below 0.75 at this progress
    assert low.parts["report_iou_50_label_match_pure"] == pytest.approx(0.624)
    assert low.parts["report_iou_75_label_match_pure"] == 0.0


async def test_a_group_that_cannot_be_verified_is_void(server: MemoryServer, pool: Pool) -> None:
    spec = RewardSpec(verifier="nobody", answer="", ground_truth="")
    await _publish(server, group([RIGHT, WRONG], ordinal=7, reward=spec))
    async with _replica(server, pool):
        (record,) = await _records(server, 1)
    assert isinstance(record, Voided)
    assert (record.ordinal, record.source, record.reason, record.stage) == (7, "mm_math", "unverifiable", "reward")
    assert "'nobody' is unknown" in record.detail


async def test_one_bad_completion_does_not_void_its_group(server: MemoryServer, pool: Pool) -> None:
    spec = RewardSpec(verifier="misbehave", answer="", ground_truth="", format_ratio=0.0, options={"deadline_s": 0.5})
    await _publish(server, group(["fine", "exit", "hang"], reward=spec))
    async with _replica(server, pool):
        (record,) = await _records(server, 1)
    assert isinstance(record, Scored)
    assert [reward.status for reward in record.rewards] == ["ok", "verifier-error", "verifier-error"]
    assert "deadline of 0.5 s" in record.rewards[2].error


async def test_work_that_takes_longer_than_the_ack_wait_is_kept_alive(pool: Pool) -> None:
    server = MemoryServer(ack_wait_s=1.5)
    spec = RewardSpec(verifier="misbehave", answer="", ground_truth="", format_ratio=0.0, options={"deadline_s": 4.0})
    await _publish(server, group(["fine", "hang"], reward=spec))
    async with _replica(server, pool), _replica(server, pool):
        assert len(await _records(server, 1)) == 1


async def test_a_group_delivered_too_often_is_void_and_its_letter_dead(server: MemoryServer, pool: Pool) -> None:
    await _publish(server, group([RIGHT], ordinal=3), group([RIGHT], ordinal=4))
    queue = await MemoryBus(server).work("completions", "job-1", "train")
    for _ in range(DELIVERY_BUDGET):
        (delivery,) = await queue.fetch(1, 1.0)
        assert delivery.message.prompt.ordinal == 3
        await delivery.hand_back(counts=True)
    async with _replica(server, pool):
        records = {
            record.ordinal if isinstance(record, Voided) else record.prompt.ordinal: record
            for record in await _records(server, 2)
        }
    void = records[3]
    assert isinstance(void, Voided) and void.reason == "redelivered" and "died 5 times" in void.detail
    assert isinstance(records[4], Scored)
    (stored,) = server.streams["dead"].after(0, lambda _: True, 10)
    letter = decode(stored.body)
    assert isinstance(letter, DeadLetter)
    assert (letter.ordinal, letter.service) == (3, "reward") and letter.deliveries > DELIVERY_BUDGET


async def test_a_second_replica_takes_over_what_a_dead_one_held(pool: Pool) -> None:
    server = MemoryServer(ack_wait_s=0.5)
    await _publish(server, *(group([RIGHT], ordinal=ordinal) for ordinal in range(6)))
    dead = await (await MemoryBus(server).work("completions", "job-1", "train")).fetch(4, 1.0)
    assert len(dead) == 4  # and it never says a word again
    async with _replica(server, pool):
        records = await _records(server, 6)
    assert {record.prompt.ordinal for record in records} == set(range(6))


async def test_a_group_waits_for_workers_that_are_away_and_nothing_is_counted(server: MemoryServer) -> None:
    await _publish(server, group([RIGHT]))
    away, retry = Pool(workers=1), Retry()
    async with _replica(server, away, retry=retry):
        await eventually(lambda: _waits(retry))
        other = await MemoryBus(server).work("completions", "job-1", "train")
        assert await other.fetch(1, 1.0) == []  # it is in hand, and stays there
        async with away:
            (record,) = await _records(server, 1)
    assert isinstance(record, Scored) and record.rewards[0].final == 1.0


async def test_a_group_waits_for_a_worker_that_cannot_be_started_and_nothing_is_counted(server: MemoryServer) -> None:
    retry = Retry()
    async with Pool(workers=1, retry=retry) as pool, _replica(server, pool, retry=retry):
        with open_files(0):
            os.kill(pool.pids[0], signal.SIGKILL)
            await _publish(server, group([RIGHT]))
            await eventually(lambda: _true(retry.waiting_for == WORKER))
            other = await MemoryBus(server).work("completions", "job-1", "train")
            assert await other.fetch(1, 1.0) == []  # it is in hand, and stays there
        (record,) = await _records(server, 1)
        assert isinstance(record, Scored) and record.rewards[0].final == 1.0
        await eventually(lambda: _true(retry.waiting_for == ""))


async def _true(value: bool) -> bool:
    return value


async def test_what_a_stopping_replica_gives_back_was_no_attempt(server: MemoryServer, pool: Pool) -> None:
    await _publish(server, group([RIGHT]))
    for _ in range(DELIVERY_BUDGET + 1):
        retry = Retry()
        async with _replica(server, Pool(workers=1), retry=retry):
            await eventually(lambda retry=retry: _waits(retry))
    async with _replica(server, pool):
        (record,) = await _records(server, 1)
    assert isinstance(record, Scored) and record.rewards[0].final == 1.0


async def _waits(retry: Retry) -> bool:
    return retry.waiting_for == WORKERS


async def test_a_record_is_published_under_its_own_id_so_that_a_retry_adds_nothing(
    server: MemoryServer, pool: Pool
) -> None:
    sent = group([RIGHT], ordinal=9)
    await _publish(server, sent)
    async with _replica(server, pool) as bus:
        (record,) = await _records(server, 1)
        assert record is not None
        await bus.publish("scored", "job-1", "train", record, message_id("job-1", "train", None, 9))
        assert (await bus.stream_state("scored")).messages == 1


async def test_samples_of_a_group_carry_sizes_progress_and_deadline() -> None:
    spec = RewardSpec(verifier="iou", answer="", ground_truth="", step=5, total_steps=20, options={"deadline_s": 2})
    (sample,) = group_samples(group(["x"], reward=spec), 10.0)
    assert sample.context.resized == [(308, 224)] and sample.context.original == [(640, 480)]
    assert sample.context.progress == 0.25 and sample.deadline_s == 2.0
