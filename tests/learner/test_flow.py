"""The learner's flow on a memory bus: the invariant, the bound, replay after a death, stop, changes, the fence."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from services.learner.engine import StepResult, StepWork
from services.learner.publishing.exports import Exports, Stored
from shared.blobs.snapshot import Snapshot
from shared.blobs.weights import WeightsStore
from shared.errors import Refused, Unavailable
from shared.jobs.record import Change
from shared.ledger.memory import MemoryLedger
from shared.ledger.port import Window
from shared.messages import DeviceTurn, EngineOpened
from tests.fakes import eventually
from tests.learner.flow_world import JOB, CountingEngine, World
from tests.weather import under

weather = under("slow", "stored twice", "empty answers")


async def test_every_published_ordinal_is_trained_exactly_once_in_order(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine()
    await world.submit()
    await world.learn(engine)
    assert engine.history == [[4 * s, 4 * s + 1, 4 * s + 2, 4 * s + 3] for s in range(6)]
    assert world.published == 24
    record = await world.jobs.get(JOB)
    assert record is not None
    assert record.state == "done"


async def test_what_the_engine_computes_with_is_told_at_every_start(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.submit()
    await world.learn(CountingEngine(die_before_step=4))
    await world.learn(CountingEngine())
    told = [event for event in await world.events("engine") if isinstance(event, EngineOpened)]
    assert [event.facts for event in told] == [{"device": "none"}, {"device": "none", "checkpoint": "step-000002"}]


async def test_on_policy_groups_are_never_stale_and_need_no_importance_weights(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine()
    await world.submit()
    await world.learn(engine)
    assert {value for step in await world.steps() for value in step.staleness} == {0}
    assert not any(engine.importance)


async def test_off_policy_groups_stay_within_the_bound_and_get_importance_weights(tmp_path: Path) -> None:
    world, engine = World(tmp_path, max_staleness=2), CountingEngine()
    await world.submit()
    await world.learn(engine)
    stale = {value for step in await world.steps() for value in step.staleness}
    assert max(stale) <= 2
    assert stale != {0}
    assert all(engine.importance)


async def test_a_void_group_is_replaced_by_the_next_ordinal_and_the_sums_agree(tmp_path: Path) -> None:
    world, engine = World(tmp_path, seed=3, voids=0.3), CountingEngine()
    await world.submit()
    await world.learn(engine)
    trained = [ordinal for step in engine.history for ordinal in step]
    voids = await world.voids()
    assert len(trained) == 24
    assert voids
    assert sorted([*trained, *voids]) == list(range(world.published))


@pytest.mark.parametrize("seed", range(3))
async def test_on_policy_the_next_versions_prompts_are_out_before_it_and_none_is_made_by_the_old_one(
    tmp_path: Path, seed: int
) -> None:
    """Void ones among them are heard of while the step is made; they widen the window that they are in, no other."""
    world, engine = World(tmp_path, seed=seed, voids=0.3), CountingEngine(die_before_step=3)
    await world.submit()
    await world.learn(engine)
    survivor = CountingEngine()
    await world.learn(survivor)
    assert {value for step in await world.steps() for value in step.staleness} == {0}
    trained = [ordinal for step in await world.steps() for ordinal in step.trained]
    assert sorted([*trained, *await world.voids()]) == list(range(world.published))
    told = [(event.version, event.window_end, event.next_end) for event in await world.versions()]
    early = {version: next_end for version, end, next_end in told if next_end > end}
    assert set(early) == set(range(5)), "of each version but those that no step follows"
    first = {version: end for version, end, _ in reversed(told)}
    assert all(first[version + 1] >= next_end for version, next_end in early.items())


async def test_a_job_that_is_shortened_to_the_step_that_is_made_voids_the_prompts_that_wait(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.submit()
    engine = ShorteningEngine(world, asyncio.get_running_loop())
    await world.learn(engine)
    assert len(engine.history) == 3
    voids = await world.voids()
    assert {void.reason for void in voids.values()} == {"stopped"}
    assert sorted(voids) == list(range(12, world.published)) and world.published == 16


class ShorteningEngine(CountingEngine):
    """While step 3 is computed and the prompts behind it are out, somebody shortens the job to it."""

    def __init__(self, world: World, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._world, self._loop = world, loop

    def step(self, work: StepWork) -> StepResult:
        if work.step == 3:
            asyncio.run_coroutine_threadsafe(self._shorten(), self._loop).result(timeout=20)
        return super().step(work)

    async def _shorten(self) -> None:
        while self._world.published < 16:
            await self._world.server.wait_change(0.05)
        change = Change(key="total_steps", value=3, requested_at=0.0)
        await self._world.jobs.update(JOB, lambda old: msgspec.structs.replace(old, changes=[*old.changes, change]))
        while not self._world.learners.record.changes:
            await self._world.server.wait_change(0.05)


async def test_a_group_that_cannot_be_ingested_becomes_void_and_is_replaced(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine(bad=frozenset({1, 6}))
    await world.submit()
    await world.learn(engine)
    voids = await world.voids()
    assert {ordinal: void.reason for ordinal, void in voids.items()} == {1: "bad-sample", 6: "bad-sample"}
    assert engine.history[0] == [0, 2, 3, 4]


async def test_every_version_is_announced_once_with_a_window_that_never_goes_back(tmp_path: Path) -> None:
    world, engine = World(tmp_path, seed=5, voids=0.2, max_staleness=1), CountingEngine()
    await world.submit()
    await world.learn(engine)
    versions = await world.versions()
    assert sorted({message.version for message in versions}) == list(range(7))
    ends = [message.window_end for message in versions]
    assert ends == sorted(ends)


@pytest.mark.parametrize("death", [1, 2, 3, 4, 6])
async def test_a_learner_that_dies_replays_to_the_same_bits_without_a_second_announcement(
    tmp_path: Path, death: int
) -> None:
    whole = World(tmp_path / "whole", seed=7, voids=0.2)
    undisturbed = CountingEngine()
    await whole.submit()
    await whole.learn(undisturbed)

    world = World(tmp_path / "killed", seed=7, voids=0.2)
    await world.submit()
    await world.learn(CountingEngine(die_before_step=death))
    survivor = CountingEngine()
    await world.learn(survivor)
    assert survivor.weight.tolist() == undisturbed.weight.tolist()
    steps = [step.step for step in await world.steps()]
    assert steps == [1, 2, 3, 4, 5, 6], "no step is told twice"
    trained = [ordinal for step in await world.steps() for ordinal in step.trained]
    assert len(trained) == len(set(trained)) == 24
    assert {message.incarnation for message in await world.versions()} == {0}


async def test_a_version_is_stored_while_the_next_step_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computing = threading.Event()
    monkeypatch.setattr(Exports, "store", once(computing, version=1))
    world, engine = World(tmp_path, max_staleness=1), WatchedEngine(computing, step=2)
    await world.submit()
    await world.learn(engine)
    assert len(engine.history) == 6
    told = [event.finished_at for event in await world.steps()]
    announced = {event.version: event.published_at for event in reversed(await world.versions())}
    assert told[0] < announced[1]


async def test_a_learner_that_dies_while_a_version_is_stored_computes_the_same_step_and_publishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, undisturbed = World(tmp_path / "whole", max_staleness=1), CountingEngine()
    await world.submit()
    await world.learn(undisturbed)

    dead = threading.Event()
    world = World(tmp_path / "killed", max_staleness=1)
    await world.submit()
    with monkeypatch.context() as patched:
        patched.setattr(Exports, "store", once(dead, version=3))
        await world.learn(WatchedEngine(dead, die_before_step=4))
    assert [step.step for step in await world.steps()] == [1, 2, 3], "step 3 is told"
    assert {event.version for event in await world.versions()} == {0, 1, 2}, "its version is not announced"
    survivor = CountingEngine()
    await world.learn(survivor)
    assert survivor.weight.tolist() == undisturbed.weight.tolist()
    assert [step.step for step in await world.steps()] == [1, 2, 3, 4, 5, 6]
    assert {event.incarnation for event in await world.versions()} == {0}


class WatchedEngine(CountingEngine):
    """Sets an event when `step` begins, and when its life is over."""

    def __init__(self, event: threading.Event, step: int | None = None, die_before_step: int | None = None) -> None:
        super().__init__(die_before_step=die_before_step)
        self._event, self._step = event, step

    def step(self, work: StepWork) -> StepResult:
        if work.step == self._step:
            self._event.set()
        return super().step(work)

    def close(self) -> None:
        self._event.set()


def once(event: threading.Event, *, version: int) -> Callable[..., Stored]:
    """`Exports.store`, which for one version begins once `event` is set."""
    store = Exports.store

    def late(self: Exports, snapshot: Snapshot, number: int, *announced: object) -> Stored:
        assert number != version or event.wait(15.0), f"no step was computed while version {version} was being stored"
        return store(self, snapshot, number, *announced)  # type: ignore[arg-type]

    return late


async def test_a_stop_voids_what_is_open_and_the_sums_agree(tmp_path: Path) -> None:
    world, engine = World(tmp_path, max_staleness=3), CountingEngine()
    await world.submit()
    await world.jobs.move(JOB, "stopping")
    await world.learn(engine)
    voids = await world.voids()
    trained = [ordinal for step in engine.history for ordinal in step]
    assert sorted([*trained, *voids]) == list(range(world.published))
    assert {void.reason for void in voids.values()} <= {"stopped"}
    record = await world.jobs.get(JOB)
    assert record is not None
    assert record.state == "stopped"


async def test_fewer_steps_while_it_runs_end_the_job_early_and_void_the_rest(tmp_path: Path) -> None:
    world, engine = World(tmp_path, max_staleness=2), CountingEngine()
    await world.submit()
    change = Change(key="total_steps", value=2, requested_at=0.0)
    await world.jobs.update(JOB, lambda record: msgspec.structs.replace(record, changes=[change]))
    await world.learn(engine)
    assert len(engine.history) == 2
    voids = await world.voids()
    trained = [ordinal for step in engine.history for ordinal in step]
    assert sorted([*trained, *voids]) == list(range(world.published))


async def test_a_raised_bound_is_fixed_to_a_step_before_it_takes_effect(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine()
    await world.submit()
    change = Change(key="max_staleness", value=2, requested_at=0.0)
    await world.jobs.update(JOB, lambda record: msgspec.structs.replace(record, changes=[change]))
    await world.learn(engine)
    record = await world.jobs.get(JOB)
    assert record is not None
    assert record.changes[0].since == 1
    assert max(message.max_staleness for message in await world.versions()) == 2
    assert max(value for step in await world.steps() for value in step.staleness) <= 2


async def test_a_learner_that_was_overtaken_is_refused(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine(die_before_step=2)
    await world.submit()
    await world.learn(engine)
    zombie = world.training(await world.active(), CountingEngine())
    await zombie.versions.publisher.recover()
    await world.bus.announce((await world.versions())[-1])
    with pytest.raises(Refused):
        await zombie.versions.publisher.fence()


async def test_evaluations_of_the_first_and_last_version_are_done_before_the_job_is(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine()
    await world.submit()
    await world.learn(engine)
    done = [(event.version, event.total, event.void) for event in await world.events("eval-done")]
    assert done == [(0, 3, 0), (6, 3, 0)]


async def test_a_stop_that_meets_a_replay_waits_for_it_and_voids_only_what_was_never_trained_on(tmp_path: Path) -> None:
    world = World(tmp_path, max_staleness=1)
    await world.submit()
    await world.learn(CountingEngine(die_before_step=6))  # the last checkpoint is of step 4, the last version is 5
    await world.jobs.move(JOB, "stopping")
    await world.learn(CountingEngine())
    trained = [ordinal for step in await world.steps() for ordinal in step.trained]
    voids = await world.voids()
    assert len(trained) == 20
    assert sorted([*trained, *voids]) == list(range(world.published))


async def test_no_weights_stay_in_the_blob_store_after_the_end(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.submit()
    await world.learn(CountingEngine(die_before_step=4))
    await world.learn(CountingEngine())
    assert world.blobs.usage().blobs == 0


@pytest.mark.parametrize("death", [2, 4, 5])
async def test_what_dynamic_sampling_has_filtered_is_filtered_again_in_a_replay(tmp_path: Path, death: int) -> None:
    world = World(tmp_path, seed=11, uniform=0.5, max_staleness=2, drop_uniform_groups=True)
    await world.submit()
    first = CountingEngine(die_before_step=death)
    await world.learn(first)
    survivor = CountingEngine()
    await world.learn(survivor)
    told = [step.trained for step in await world.steps()]
    computed = {tuple(step) for step in first.history} | {tuple(step) for step in survivor.history}
    assert computed == {tuple(step) for step in told}, "no step is made of other groups the second time"
    trained = [ordinal for step in told for ordinal in step]
    assert sorted([*trained, *await world.voids()]) == list(range(world.published))


async def test_a_job_that_is_paused_at_its_end_waits_and_is_done_once_it_is_resumed(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine()
    await world.submit()

    async def pause_and_resume() -> None:
        await eventually(lambda: has_steps(world, 1))
        await world.jobs.move(JOB, "paused")
        await eventually(lambda: has_steps(world, 6))
        await world.jobs.move(JOB, "running")

    await asyncio.gather(world.learn(engine), pause_and_resume())
    record = await world.jobs.get(JOB)
    assert record is not None
    assert record.state == "done"


async def test_a_ledger_that_is_away_stops_nothing(tmp_path: Path) -> None:
    world, engine = World(tmp_path), CountingEngine()
    world.ports = dataclasses.replace(world.ports, ledger=AwayLedger())
    await world.submit()
    await world.learn(engine)
    assert len(engine.history) == 6


async def test_weights_that_are_gone_from_the_store_are_there_again_after_a_restart(tmp_path: Path) -> None:
    """Equal bits stay the same version of the same incarnation, however they have to be published again."""
    world = World(tmp_path)
    await world.submit()
    await world.learn(CountingEngine(die_before_step=4))
    last = (await world.versions())[-1]
    for ref in WeightsStore(world.blobs, tmp_path / "before").blobs_of(last.manifest):
        world.blobs.delete(ref)
    await world.learn(CountingEngine(die_before_step=4))
    newest = (await world.versions())[-1]
    assert (newest.version, newest.digest, newest.incarnation) == (3, last.digest, 0)
    WeightsStore(world.blobs, tmp_path / "replica").materialise(newest.manifest).close()
    await world.learn(CountingEngine())
    assert [step.step for step in await world.steps()] == [1, 2, 3, 4, 5, 6]


async def test_a_checkpoint_right_after_a_restart_keeps_the_place_in_the_journal(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.submit()
    await world.learn(CountingEngine(die_before_step=5))  # its last checkpoint and its last version are of step 4
    await world.jobs.update(JOB, lambda record: msgspec.structs.replace(record, checkpoint_wanted=1))
    await world.learn(CountingEngine(die_before_step=5))
    survivor = CountingEngine()
    await world.learn(survivor)
    assert [len(step.trained) for step in await world.steps()] == [4] * 6


class AwayLedger(MemoryLedger):
    """A ledger whose server does not answer."""

    async def write_window(self, job: str, window: Window) -> None:
        raise Unavailable("Redis does not answer")

    async def trained(self, job: str, staleness: Mapping[str, Sequence[int]]) -> None:
        raise Unavailable("Redis does not answer")


async def has_steps(world: World, count: int) -> bool:
    return len(await world.steps()) >= count


@pytest.mark.parametrize("death", [None, 2, 4, 5])
async def test_an_order_by_arrival_trains_each_group_once_within_the_bound_and_repeats_what_was_told(
    tmp_path: Path, death: int | None
) -> None:
    world = World(tmp_path, seed=5, voids=0.2, max_staleness=2, order="arrival")
    await world.submit()
    first, survivor = CountingEngine(die_before_step=death), CountingEngine()
    await world.learn(first)
    if death is not None:
        await world.learn(survivor)
    steps = await world.steps()
    told = [step.trained for step in steps]
    computed = {tuple(step) for step in [*first.history, *survivor.history]}
    assert computed == {tuple(step) for step in told}, "no step is made of other groups the second time"
    trained = [ordinal for step in told for ordinal in step]
    assert trained != sorted(trained), "not in the order of the ordinals"
    assert sorted([*trained, *await world.voids()]) == list(range(world.published))
    assert max(value for step in steps for value in step.staleness) <= 2
    assert sum(step.metrics["early_groups"] for step in steps) > 0


async def test_on_a_shared_device_the_learner_takes_its_turn_for_each_step_and_leaves_it(tmp_path: Path) -> None:
    world, engine = World(tmp_path, shares_device=True), CountingEngine()
    await world.submit()
    await world.learn(engine)
    assert len(engine.history) == 6
    assert engine.turns == ["sleep", *["wake", "sleep"] * 6], "opened on the first turn, then a turn a step"
    turns = [(event.turn, event.state) for event in await world.events("device") if isinstance(event, DeviceTurn)]
    every = [(turn, state) for turn in range(1, 8) for state in ("wanted", "free", "returned")]
    assert turns == every[-len(turns) :], "those before the last checkpoint may be purged"


@pytest.mark.parametrize("death", [1, 3])
async def test_a_learner_that_died_on_its_turn_takes_the_same_one_up_again(tmp_path: Path, death: int) -> None:
    world, survivor = World(tmp_path, shares_device=True), CountingEngine()
    await world.submit()
    await world.learn(CountingEngine(die_before_step=death))
    (last, _) = await world.bus.last_event(JOB, "device") or (None, 0)
    assert isinstance(last, DeviceTurn) and (last.turn, last.state) == (death + 1, "free")
    await world.learn(survivor)
    assert (await world.steps())[-1].step == 6
    assert survivor.turns[0] == "sleep"
