"""Faults between the learner's stores: each of these ended a job, lost it, or made it another one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from services.learner.checkpoints.saving import LastCheckpointMissing
from services.learner.steps.barren import NothingUsable
from shared.bus.memory.bus import MemoryBus
from shared.errors import Corrupt
from shared.jobs.record import Change, DataFacts, JobStore
from shared.messages import Completion, EndOfOrder, EvalDone, EvalDue, Event, Scored, pack_floats, pack_ints
from shared.service import Ports
from tests.fakes import eventually, make_id, make_scored
from tests.learner.flow_world import JOB, CountingEngine, KilledHere, World

# ---------------------------------------------------------------- groups that are none


def with_completion(record: Scored, completion: Completion) -> Scored:
    """The group with its second completion replaced."""
    completions = [record.group.completions[0], completion]
    return msgspec.structs.replace(record, group=msgspec.structs.replace(record.group, completions=completions))


def _short_runs(record: Scored) -> Scored:
    whole = record.group.completions[1]
    return with_completion(record, Completion(whole.token_ids, whole.log_probs, "4", "stop", [(0, 1)]))


def _falling_runs(record: Scored) -> Scored:
    whole = record.group.completions[1]
    return with_completion(record, Completion(whole.token_ids, whole.log_probs, "4", "stop", [(1, 1), (0, 2)]))


def _lost_completion(record: Scored) -> Scored:
    group = msgspec.structs.replace(record.group, completions=record.group.completions[:1])
    return msgspec.structs.replace(record, group=group, rewards=record.rewards[:1])


def _reward_that_is_no_number(record: Scored) -> Scored:
    rewards = [record.rewards[0], msgspec.structs.replace(record.rewards[1], final=float("nan"))]
    return msgspec.structs.replace(record, rewards=rewards)


def _log_prob_that_is_no_number(record: Scored) -> Scored:
    whole = record.group.completions[1]
    log_probs = pack_floats([-0.5, float("nan"), -0.5])
    return with_completion(record, Completion(whole.token_ids, log_probs, "4", "stop", whole.versions))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_short_runs, "version runs"),
        (_falling_runs, "rising versions"),
        (_lost_completion, "1 completions; expected 2"),
        (_reward_that_is_no_number, "the reward of completion 1 is nan"),
        (_log_prob_that_is_no_number, "log-probs that are not finite"),
    ],
)
async def test_a_group_that_is_none_is_void_and_the_learner_goes_on(
    tmp_path: Path, spoil: Callable[[Scored], Scored], why: str
) -> None:
    world, engine = World(tmp_path), CountingEngine()
    world.spoil = lambda record: spoil(record) if record.prompt.ordinal == 1 else record
    await world.submit()
    await world.learn(engine)
    voids = await world.voids()
    assert engine.history[0] == [0, 2, 3, 4]
    assert [voids[1].reason, list(voids)] == ["bad-sample", [1]]
    assert why in voids[1].detail


async def test_completions_without_a_token_are_trained_on_as_of_the_version_that_admitted_them(tmp_path: Path) -> None:
    nothing = Completion(pack_ints([]), pack_floats([]), "", "stop", [])

    def empty(record: Scored) -> Scored:
        prompt = msgspec.structs.replace(record.group.prompt, min_version=record.oldest_version)
        group = msgspec.structs.replace(record.group, prompt=prompt, completions=[nothing, nothing])
        return msgspec.structs.replace(record, group=group)

    world, engine = World(tmp_path), CountingEngine()
    world.spoil = empty
    await world.submit()
    await world.learn(engine)
    assert len(engine.history) == 6
    assert {value for step in await world.steps() for value in step.staleness} == {0}


# ---------------------------------------------------------------- replays


async def test_a_step_is_replayed_as_it_was_told_whatever_would_be_decided_now(tmp_path: Path) -> None:
    """Group 1 could not be used in the first life; in the second one it could."""
    world = World(tmp_path, checkpoint_every=0)
    await world.submit()
    await world.learn(CountingEngine(bad=frozenset({1}), die_before_step=3))
    survivor = CountingEngine()
    await world.learn(survivor)
    assert survivor.history[:2] == [[0, 2, 3, 4], [5, 6, 7, 8]]
    assert {message.incarnation for message in await world.versions()} == {0}


async def test_a_step_whose_group_is_gone_at_the_replay_is_corrupt(tmp_path: Path) -> None:
    world = World(tmp_path, checkpoint_every=0)
    await world.submit()
    await world.learn(CountingEngine(die_before_step=3))
    with pytest.raises(Corrupt, match="step 1 was trained on group 1, which cannot be used any more: ordinal 1"):
        await world.learn(CountingEngine(bad=frozenset({1})))


async def test_groups_of_an_earlier_incarnation_get_importance_weights_also_after_another_death(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.submit()
    await world.learn(CountingEngine(die_before_step=4))  # checkpoint of step 2; version 3 has admitted step 4's groups
    await world.jobs.update(JOB, lambda record: msgspec.structs.replace(record, checkpoint_wanted=1))
    second = CountingEngine(noise=1e-3, die_before_step=4)
    await world.learn(second)
    assert second.saved_after == [1], "the replayed step 3, announced as incarnation 1, is in a checkpoint"
    third = CountingEngine(noise=1e-3)
    await world.learn(third)
    assert third.importance == [True, False, False], "steps 4, 5 and 6"
    assert [message.incarnation for message in await world.versions()][-1] == 1


async def test_a_replay_weighs_tokens_as_the_first_life_did(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.submit()
    await world.learn(CountingEngine(die_before_step=4))
    second = CountingEngine(noise=1e-3, die_before_step=5)
    await world.learn(second)  # checkpoint of step 4
    told = {step.step: step.importance for step in await world.steps()}
    assert told == {1: False, 2: False, 3: False, 4: True}
    third = CountingEngine(noise=1e-3)
    await world.learn(third)
    assert third.importance == [False, False]


# ---------------------------------------------------------------- checkpoints


async def test_a_request_that_meets_a_full_disk_is_answered_once_there_is_room(tmp_path: Path) -> None:
    world, engine = World(tmp_path, checkpoint_every=0), CountingEngine(full_disk=2)
    await world.submit()
    await world.jobs.update(JOB, lambda record: msgspec.structs.replace(record, checkpoint_wanted=1))
    await world.learn(engine)
    assert len(engine.saved_after) == 2, "the one that was asked for, and the last one"
    assert engine.saved_after[0] < 6


async def test_what_another_job_has_left_in_the_journal_makes_no_checkpoints(tmp_path: Path) -> None:
    world, engine = World(tmp_path, checkpoint_every=0, journal_bytes=100_000), CountingEngine()
    await world.submit()
    ordinal = 0
    while (await world.bus.stream_state("scored")).bytes < 75_000:
        left = make_scored(ordinal, job="failed", tokens=400)
        await world.bus.publish("scored", "failed", "train", left, make_id("failed", ordinal))
        ordinal += 1
    await world.learn(engine)
    assert engine.saved_after == [6]


async def test_steps_and_versions_behind_a_checkpoint_are_purged_once_the_monitor_has_them(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine()
    await world.submit()
    await (await world.bus.read_events(JOB, durable="monitor")).ack(10**9)
    await world.learn(engine)
    assert await world.steps() == []
    assert {message.version for message in await world.versions()} <= {3, 4, 5, 6}


# ---------------------------------------------------------------- ends


async def test_a_disk_that_is_full_for_a_moment_at_the_end_fails_no_job(tmp_path: Path) -> None:
    world, engine = World(tmp_path, checkpoint_every=0), CountingEngine(full_disk=2)
    await world.submit()
    await world.learn(engine)
    assert engine.saved_after == [6]
    record = await world.jobs.get(JOB)
    assert record is not None and record.state == "done"


async def test_a_stop_that_fails_on_a_full_disk_and_is_resumed_ends_as_stopped(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine(full_disk=1000)
    await world.submit()

    async def stop() -> None:
        await eventually(lambda: _has_steps(world, 2))
        await world.jobs.move(JOB, "stopping")

    stopping = asyncio.ensure_future(stop())
    with pytest.raises(LastCheckpointMissing):
        await world.learn(engine)
    await stopping
    for state in ("failed", "queued"):
        await world.jobs.move(JOB, state)
    assert (await world.jobs.move(JOB, "running")).state == "stopping"
    await world.learn(CountingEngine())
    record = await world.jobs.get(JOB)
    assert record is not None
    assert record.state == "stopped"
    assert len(await world.steps()) < 6


async def test_more_steps_that_are_asked_for_in_the_last_evaluation_are_made(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine()
    world.unanswered = {6}
    await world.submit()

    async def prolong() -> None:
        await eventually(lambda: _has_steps(world, 6))
        change = Change(key="total_steps", value=8, requested_at=0.0)
        await world.jobs.update(JOB, lambda record: msgspec.structs.replace(record, changes=[change]))
        await eventually(lambda: _has_steps(world, 8))
        world.unanswered = set()

    await asyncio.gather(world.learn(engine), prolong())
    record = await world.jobs.get(JOB)
    assert record is not None
    assert (record.state, record.ending, len(engine.history)) == ("done", True, 8)


class DyingBus(MemoryBus):
    """The learner dies as it asks for the evaluation of its last version."""

    async def announce(self, event: Event, *, expected_last: int | None = None) -> int:
        if isinstance(event, EvalDue) and event.version == 6:
            raise KilledHere
        return await super().announce(event, expected_last=expected_last)


async def test_a_version_is_announced_before_its_evaluation_which_a_death_between_them_does_not_lose(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.submit()
    calm, dying = world.ports, DyingBus(world.server)
    world.ports = Ports(calm.settings, dying, calm.ledger, calm.blobs, JobStore(dying))
    await world.learn(CountingEngine())
    assert (await world.versions())[-1].version == 6
    world.ports = calm
    await world.learn(CountingEngine())
    done = [(event.version, event.total) for event in await world.events("eval-done")]
    assert done == [(0, 3), (6, 3)]


class DyingAtTheEnd(MemoryBus):
    """The learner dies as it says that its last evaluation is done."""

    async def announce(self, event: Event, *, expected_last: int | None = None) -> int:
        if isinstance(event, EvalDone) and event.version == 6:
            raise KilledHere
        return await super().announce(event, expected_last=expected_last)


async def test_an_evaluation_names_the_incarnation_whose_weights_were_evaluated(tmp_path: Path) -> None:
    world = World(tmp_path, checkpoint_every=0)
    await world.submit()
    calm, dying = world.ports, DyingAtTheEnd(world.server)
    world.ports = Ports(calm.settings, dying, calm.ledger, calm.blobs, JobStore(dying))
    await world.learn(CountingEngine())
    world.ports = calm
    await world.learn(CountingEngine(noise=1e-3))  # a replay with other bits: version 6 is announced once more
    last = (await world.versions())[-1]
    assert (last.version, last.incarnation) == (6, 1)
    done = [(event.version, event.incarnation) for event in await world.events("eval-done")]
    assert done == [(0, 0), (6, 0)]


async def test_what_is_evaluated_after_a_replay_with_other_bits_is_of_the_new_incarnation(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.submit()
    await world.learn(CountingEngine(die_before_step=4))
    await world.learn(CountingEngine(noise=1e-3))
    done = [(event.version, event.incarnation) for event in await world.events("eval-done")]
    assert done == [(0, 0), (6, 1)]


# ---------------------------------------------------------------- nothing to train on


async def test_a_job_whose_every_group_is_void_fails_with_its_reasons(tmp_path: Path) -> None:
    world, engine = World(tmp_path, voids=1.0), CountingEngine()
    await world.submit()
    sentence = r"^16 groups in a row cannot be trained on: sums: 16 bad-sample \(the image is empty\)$"
    with pytest.raises(NothingUsable, match=sentence):
        await world.learn(engine)
    assert world.published <= 16 + 4


async def test_a_small_set_without_a_usable_row_fails_within_its_first_pass(tmp_path: Path) -> None:
    world, engine = World(tmp_path, voids=1.0), CountingEngine()
    await world.submit()
    facts = DataFacts(files={}, groups=6)
    await world.jobs.update(JOB, lambda record: msgspec.structs.replace(record, data=facts))
    with pytest.raises(NothingUsable, match=r"^6 groups in a row cannot be trained on: sums: 6 bad-sample"):
        await world.learn(engine)


async def test_what_the_learner_itself_cannot_use_counts_and_is_in_the_journal_before_the_job_fails(
    tmp_path: Path,
) -> None:
    world, engine = World(tmp_path), CountingEngine(bad=frozenset(range(1000)))
    await world.submit()
    with pytest.raises(NothingUsable, match="16 groups in a row"):
        await world.learn(engine)
    assert sorted(await world.voids()) == list(range(16))


async def test_many_voids_with_a_good_group_now_and_then_fail_no_job(tmp_path: Path) -> None:
    bad = frozenset(ordinal for ordinal in range(1000) if ordinal % 15)
    world, engine = World(tmp_path), CountingEngine(bad=bad)
    await world.submit()
    await world.learn(engine)
    assert engine.history[0] == [0, 15, 30, 45]


async def test_an_order_that_ends_without_a_step_is_no_job_that_is_done(tmp_path: Path) -> None:
    world, engine = World(tmp_path, voids=1.0), CountingEngine()
    await world.submit()
    await world.bus.announce(EndOfOrder(job=JOB, kind="train", total=3))
    with pytest.raises(NothingUsable, match=r"no training step.*: sums: 3 bad-sample"):
        await world.learn(engine)


async def _has_steps(world: World, count: int) -> bool:
    return len(await world.steps()) >= count
