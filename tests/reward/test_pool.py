"""Every sample gets its reward, whatever the others do to their workers."""

import asyncio
import errno
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import msgspec
import psutil
import pytest

from services.reward.workers import process
from services.reward.workers.pool import BATCH, WORKER, Overloaded, Pool
from services.reward.workers.process import Worker
from shared.errors import Unavailable
from tests.limits import descriptors, first_free, open_files
from tests.reward.samples import math, text

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD = [math(str(number)) for number in range(8)]
RIGHT = [float(number == 4) for number in range(8)]


async def _finals(pool: Pool, samples: list) -> list[float]:
    rewards = await pool.score(samples)
    assert all(reward.ok for reward in rewards)
    return [reward.final for reward in rewards]


async def test_rewards_come_in_the_order_of_the_samples(pool: Pool) -> None:
    many = GOOD * (3 * BATCH // 8)
    assert await _finals(pool, many) == RIGHT * (3 * BATCH // 8)
    assert await pool.score([]) == []


async def test_requests_at_the_same_time_do_not_mix(pool: Pool) -> None:
    requests = [pool.score([math(str(number), str(number)), math("x", str(number))]) for number in range(40)]
    for rewards in await asyncio.gather(*requests):
        assert [reward.final for reward in rewards] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("deed", "told"),
    [
        ("exit", "ended with code 3"),
        ("kill", "ended by signal 9"),
        ("hang", "did not finish within its deadline of 0.5 s"),
        ("loop", "did not finish within its deadline of 0.5 s"),
        ("memory", "ran out of memory"),
        ("raise", "RuntimeError: on purpose"),
        ("babble", "answered what is no reply"),
    ],
)
async def test_a_deed_costs_its_own_sample_an_error_and_no_other(pool: Pool, deed: str, told: str) -> None:
    bad = text(deed, "misbehave", deadline_s=0.5 if "deadline" in told else 60.0)
    rewards = await pool.score([*GOOD[:4], bad, *GOOD[4:]])
    assert rewards[4].status == "verifier-error" and told in rewards[4].error
    del rewards[4]
    assert [reward.final for reward in rewards] == RIGHT
    assert await _finals(pool, GOOD * 8) == RIGHT * 8
    await _until(lambda: _true(len(pool.pids) == pool.workers))


@pytest.mark.parametrize("unsendable", [{"x": 1 << 80}, {"x": "\ud800"}], ids=["huge integer", "lone surrogate"])
async def test_a_sample_without_a_wire_form_gets_its_error_and_the_pool_lives_on(
    pool: Pool, unsendable: dict[str, object]
) -> None:
    bad = msgspec.structs.replace(GOOD[0], spec=msgspec.structs.replace(GOOD[0].spec, params=unsendable))
    rewards = await pool.score([GOOD[4], bad, GOOD[5]])
    assert [reward.status for reward in rewards] == ["ok", "verifier-error", "ok"]
    assert "cannot be sent" in rewards[1].error
    assert pool.ready
    assert await _finals(pool, GOOD) == RIGHT


async def test_a_verifier_that_prints_does_not_disturb_the_answers(pool: Pool) -> None:
    assert await _finals(pool, [text("print", "misbehave"), *GOOD]) == [1.0, *RIGHT]


async def test_samples_behind_one_that_hangs_do_not_wait_for_it(pool: Pool) -> None:
    hanging = asyncio.ensure_future(pool.score([text("hang", "misbehave", deadline_s=3.0), *GOOD]))
    rewards = asyncio.ensure_future(pool.score(GOOD * 8))
    await asyncio.wait({hanging, rewards}, return_when=asyncio.FIRST_COMPLETED)
    assert rewards.done() and not hanging.done()
    assert [reward.final for reward in await hanging][1:] == RIGHT


async def test_a_sample_that_was_given_back_is_not_given_back_once_more_when_its_worker_ends() -> None:
    async with Pool(workers=1) as pool:
        await pool.score([text("hang", "misbehave", deadline_s=0.5)] * 2)
        assert (pool.waiting, pool.counts.replaced) == (0, 2)


async def test_an_idle_worker_that_is_killed_is_replaced_and_nobody_is_blamed(pool: Pool) -> None:
    for pid in pool.pids:
        os.kill(pid, 9)
    assert await _finals(pool, GOOD * 8) == RIGHT * 8


async def test_a_worker_that_cannot_be_started_is_tried_again_and_told_of() -> None:
    async with Pool(workers=2) as pool:
        with open_files(0):
            for pid in pool.pids:
                os.kill(pid, 9)
            with pytest.raises(Unavailable, match=r"a reward worker could not be started: .*Too many open files"):
                await pool.score(GOOD * 8)
            assert pool.retry.waiting_for == WORKER and pool.ready
            with pytest.raises(Unavailable, match="could not be started"):
                await pool.score(GOOD)
        await _until(lambda: _true(len(pool.pids) == 2))
        assert await _finals(pool, GOOD * 8) == RIGHT * 8
        assert pool.retry.waiting_for == "" and pool.counts.errors == 0


@pytest.mark.asyncio(loop_scope="function")  # a loop whose executor has no thread yet
async def test_where_neither_a_process_nor_a_thread_can_be_started_both_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def again(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async with Pool(workers=1) as pool:
        with monkeypatch.context() as full:
            full.setattr(subprocess, "Popen", again)
            full.setattr(threading.Thread, "start", no_thread)
            os.kill(pool.pids[0], 9)
            with pytest.raises(Unavailable, match=r"could not be started: \[Errno 11\]"):
                await pool.score(GOOD)
            assert pool.ready
        assert await _finals(pool, GOOD) == RIGHT


async def test_while_one_worker_cannot_be_started_the_other_judges_all() -> None:
    async with Pool(workers=2) as pool:
        with open_files(0):
            os.kill(pool.pids[0], 9)
            while pool.retry.waiting_for != WORKER:  # whoever notices first
                assert await _finals(pool, GOOD * 8) == RIGHT * 8
            for _ in range(10):
                assert await _finals(pool, GOOD * 8) == RIGHT * 8
            assert len(pool.pids) == 1
        await _until(lambda: _true(len(pool.pids) == 2))


async def test_a_worker_that_cannot_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """One descriptor more each time, so that it fails at each place, until its process starts and ends at once."""
    monkeypatch.setattr(process, "_MODULE", "services.reward.no_such_module")
    before, failures = descriptors(), []
    for most in itertools.count(first_free()):
        with open_files(most), pytest.raises(Unavailable) as failure:
            await Worker.start(1024**3)
        failures.append(failure)  # with its traceback, and what that holds
        assert descriptors() == before, f"with {most} descriptors: {failure.value}"
        if "did not start" in str(failure.value):
            break
    assert "ended with code 1" in str(failures[-1].value) and len(failures) > 5


@pytest.mark.parametrize("steps", range(6))
async def test_a_worker_whose_start_is_cancelled_leaves_nothing_open(steps: int) -> None:
    before = descriptors()
    starting = asyncio.ensure_future(Worker.start(1024**3))
    for _ in range(steps):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled() and descriptors() == before


async def test_a_fault_of_a_lane_is_told_and_fails_what_it_had_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Pool(workers=1) as pool:
        watching = asyncio.ensure_future(pool.watch())
        monkeypatch.setattr(Pool, "_keep", _fails)
        with pytest.raises(Unavailable, match=r"has failed: RuntimeError\('a fault of ours'\)"):
            await pool.score(GOOD)
        with pytest.raises(RuntimeError, match="a fault of ours"):
            await watching


def _fails(*_: object) -> None:
    raise RuntimeError("a fault of ours")


async def test_a_worker_that_has_grown_is_replaced() -> None:
    async with Pool(workers=1, memory_bytes=1024**3) as pool:
        (pid,) = pool.pids
        # It keeps 600 MiB, more than half of what it may have.
        assert await _finals(pool, [text("grow", "misbehave")]) == [1.0]
        assert await _finals(pool, GOOD) == RIGHT
        assert pool.pids != [pid] and pool.counts.replaced == 1


async def test_a_full_queue_refuses_and_an_empty_one_takes_anything() -> None:
    pool = Pool(workers=1, limit=4)
    pool.admit(1000)
    async with pool:
        hanging = asyncio.ensure_future(pool.score([text("hang", "misbehave", deadline_s=1.0), *GOOD]))
        await _until(lambda: _true(pool.waiting > 0))
        with pytest.raises(Overloaded, match="expected at most 4"):
            pool.admit(4)
        assert [reward.final for reward in await hanging][1:] == RIGHT


async def test_a_pool_that_stops_fails_what_waits_and_leaves_no_process() -> None:
    pool = Pool(workers=1)
    with pytest.raises(Unavailable, match="not running"):
        await pool.score(GOOD)
    await pool.start()
    (pid,) = pool.pids
    waiting = asyncio.ensure_future(pool.score([text("hang", "misbehave", deadline_s=30.0), *GOOD]))
    await asyncio.sleep(0)
    await pool.close()
    with pytest.raises(Unavailable, match="stopping"):
        await waiting
    assert not psutil.pid_exists(pid)


_PARENT = """
import asyncio, sys
from services.reward.workers.pool import Pool
from tests.limits import descriptors, first_free, open_files
from tests.reward.samples import text
async def main():
    async with Pool(workers=2) as pool:
        hanging = asyncio.ensure_future(pool.score([text("hang", "misbehave", deadline_s=600.0)]))
        await asyncio.sleep(0)
        sys.stdout.write(" ".join(map(str, pool.pids)) + "\\n"); sys.stdout.flush()
        await hanging
asyncio.run(main())
"""


async def test_workers_die_with_a_parent_that_is_killed_even_while_they_hang() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", _PARENT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(word) for word in (await parent.stdout.readline()).split()]
    parent.kill()
    await parent.wait()
    assert len(pids) == 2
    await _until(lambda: _true(not any(map(_runs, pids))))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _true(value: bool) -> bool:
    return value


async def _until(condition: Callable[[], Awaitable[bool]], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not await condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.01)
