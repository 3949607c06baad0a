"""A replica at work over the in-memory bus with a hand-written engine."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from services.rollout import hand
from services.rollout.config import RolloutConfig
from services.rollout.engine import Engine
from services.rollout.metrics import RolloutMetrics
from services.rollout.replica import Replica
from shared.bus.memory.server import MemoryServer
from shared.bus.port import DELIVERY_BUDGET
from shared.errors import Corrupt, TriuneError
from shared.jobs.following import ActiveJob
from shared.jobs.record import JobRecord
from shared.jobs.spec import JobSpec
from shared.messages import (
    BlobRef,
    Completed,
    DeadLetter,
    DeviceTurn,
    EngineOpened,
    EvalDone,
    EvalDue,
    ImageRef,
    Prompt,
    Voided,
    WeightsLoaded,
    WeightsPublished,
    message_id,
)
from shared.service import Ports, Status
from tests.published import publish
from tests.rollout.fakes import FakeEngine, make_ports, make_record
from tests.rollout.helpers import make_prompt
from tests.weather import through_weather, under

weather = under("sent again", "handed back")

CONFIG = RolloutConfig(fetch_wait_s=0.05, count_s=0.05, hand_back_s=0.02, weights_limit_s=5.0, grace_s=5.0)


class World:
    """One replica's surroundings, and shorthands for what a test sends and sees."""

    def __init__(self, ports: Ports) -> None:
        self.ports, self.engine, self.status = ports, FakeEngine(), Status()
        self._sequence = 0

    def replica(self, record: JobRecord | None = None, config: RolloutConfig = CONFIG) -> Replica:
        job = ActiveJob(record or make_record())
        ports = dataclasses.replace(self.ports, bus=through_weather(self.ports.bus))
        return Replica(job, ports, self._open, config, self.status, RolloutMetrics())

    async def _open(self, spec: JobSpec) -> Engine:
        return self.engine

    async def announce(self, version: int, window_end: int = 8) -> BlobRef:
        tensors = {name: torch.full((1,), float(version)) for name in "ab"}
        manifest = publish(self.ports.blobs, self.ports.settings.runs / "learner", version, tensors)
        event = WeightsPublished(
            job="job", version=version, incarnation=0, cursor=0, window_end=window_end, max_staleness=0, total_steps=3,
            manifest=manifest, digest="",
        )  # fmt: skip
        await self.ports.bus.announce(event)
        return manifest

    async def send(self, prompt: Prompt) -> None:
        identity = message_id("job", prompt.kind, prompt.version, prompt.ordinal)
        await self.ports.bus.publish("prompts", "job", prompt.kind, prompt, identity)

    async def answers(self, stream: str, count: int, kind: Any = "train") -> list[Any]:
        """The first `count` messages of `<stream>.job.<kind>`, once they are there."""
        await until(lambda: len(self.published(stream, kind)) >= count)
        return self.published(stream, kind)

    def published(self, stream: str, kind: Any = "train") -> list[Any]:
        found = self.ports.bus.server.streams[stream].entries.values()
        stored = [entry.body for entry in found if entry.subject == f"{stream}.job.{kind}"]
        return [msgspec.msgpack.decode(body, type=Completed | Voided | DeadLetter) for body in stored]

    @property
    def prompts_left(self) -> int:
        return len(self.ports.bus.server.streams["prompts"].entries)


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  (also a thread's state)
            await asyncio.sleep(0.002)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(make_ports(tmp_path))


@contextlib.asynccontextmanager
async def running(replica: Replica) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(replica.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, TriuneError):
            await task


def prompt(ordinal: int, text: str = "", **more: Any) -> Prompt:
    made = make_prompt(text or f"text {ordinal}", ordinal=ordinal, n=2)
    return msgspec.structs.replace(made, **more)


async def test_prompts_become_groups_stamped_with_the_weights(world: World) -> None:
    await world.announce(0)
    world.engine.gate.clear()
    for ordinal in range(3):
        await world.send(prompt(ordinal))
    async with running(world.replica()):
        await until(lambda: len(world.engine.running) == 3)
        view = await world.ports.ledger.view("job")
        assert (view.in_flight, dict(view.loaded)) == (3, {"replica-1": 0})
        world.engine.gate.set()
        groups = sorted(await world.answers("completions", 3), key=lambda group: group.prompt.ordinal)
        await until(lambda: world.prompts_left == 0)
        await until(lambda: world.status.in_flight == 0)
        assert world.status.version == 0
    assert [group.prompt.ordinal for group in groups] == [0, 1, 2]
    assert [one.text for one in groups[1].completions] == ["text 1", "text 1"]
    assert {version for group in groups for one in group.completions for version, _ in one.versions} == {0}
    assert all(group.replica == "replica-1" and group.finished_at >= group.started_at for group in groups)
    assert (await world.ports.ledger.view("job")).in_flight == 0


async def test_what_the_engine_computes_with_is_told_once_it_is_open(world: World) -> None:
    async with running(world.replica()):
        await until(lambda: world.status.state == "waiting")
    (told, _) = await world.ports.bus.last_event("job", "engine") or (None, 0)
    assert isinstance(told, EngineOpened)
    assert (told.service, told.replica, told.facts) == ("rollout", "replica-1", FakeEngine.facts)


async def test_what_a_version_took_to_load_is_told(world: World) -> None:
    await world.announce(0)
    async with running(world.replica()), asyncio.timeout(60.0):
        told = await anext(event async for event, _ in world.ports.bus.events("job", "loaded"))
    assert isinstance(told, WeightsLoaded)
    assert (told.replica, told.version, told.kept) == ("replica-1", 0, 0)
    assert told.load_s >= told.stall_s >= 0


async def test_groups_are_generated_while_their_completions_fit_the_engines_room(world: World) -> None:
    """Room for 6 completions: 3 groups of 2; 2 more are prepared meanwhile, and start as soon as there is room."""
    world.engine = FakeEngine(room=6)
    await world.announce(0)
    world.engine.gate.clear()
    for ordinal in range(5):
        await world.send(prompt(ordinal))
    async with running(world.replica()):
        await until(lambda: world.status.in_flight == 5 and len(world.engine.groups) == 3)
        world.engine.gate.set()
        await world.answers("completions", 5)
    assert world.engine.most_together == 3


async def test_a_group_is_answered_while_others_are_being_generated(world: World) -> None:
    await world.announce(0)
    world.engine.gate.clear()
    await world.send(prompt(0))
    async with running(world.replica()):
        await until(lambda: len(world.engine.groups) == 1)
        await world.send(prompt(1, "bad"))
        await world.answers("scored", 1)
        assert world.engine.running


async def test_two_replicas_share_what_the_window_admits(world: World) -> None:
    """A window of 8 groups and two replicas: neither takes more than 4, although its engine has room for 32."""
    await world.announce(0)
    await world.ports.ledger.loaded("job", "replica-2", 0)
    world.engine.gate.clear()
    for ordinal in range(8):
        await world.send(prompt(ordinal))
    async with running(world.replica()):
        await until(lambda: world.status.in_flight == 4)
        other = await world.ports.bus.work("prompts", "job", "train")
        assert len(await other.fetch(8, 1.0)) == 4


async def test_training_runs_the_newest_weights_and_waits_for_those_it_asks_for(world: World) -> None:
    await world.announce(0)
    await world.send(prompt(8, min_version=2))
    async with running(world.replica()):
        await until(lambda: world.status.version == 0 and world.status.in_flight == 1)
        assert not world.engine.groups
        await world.announce(3, window_end=16)
        await world.answers("completions", 1)
    assert world.engine.groups == [(3, "text 8")]


async def test_weights_change_under_what_is_being_generated_when_the_job_is_off_policy(world: World) -> None:
    world.engine = FakeEngine(in_flight_updates=True)
    await world.announce(0)
    world.engine.gate.clear()
    await world.send(prompt(0))
    async with running(world.replica(make_record(max_staleness=1))):
        await until(lambda: bool(world.engine.running))
        await world.announce(1)
        await until(lambda: world.status.version == 1)
        world.engine.gate.set()
        (group,) = await world.answers("completions", 1)
    assert world.engine.loads == [(0, "keep"), (1, "keep")]
    assert group.completions[0].versions == [(0, 1), (1, 1)]


@pytest.mark.parametrize(("max_staleness", "in_flight_updates"), [(0, True), (1, False)])
async def test_weights_wait_for_what_is_being_generated_on_policy_or_when_the_engine_cannot_keep_it(
    world: World, max_staleness: int, in_flight_updates: bool
) -> None:
    world.engine = FakeEngine(in_flight_updates=in_flight_updates)
    await world.announce(0)
    world.engine.gate.clear()
    await world.send(prompt(0))
    async with running(world.replica(make_record(max_staleness=max_staleness))):
        await until(lambda: bool(world.engine.running))
        await world.announce(1)
        await world.send(prompt(1, min_version=1))
        await until(lambda: world.status.in_flight == 2)
        assert world.engine.loads == [(0, "drain")]
        world.engine.gate.set()
        await world.answers("completions", 2)
    assert world.engine.groups == [(0, "text 0"), (1, "text 1")]
    assert world.engine.loads == [(0, "drain"), (1, "drain")]


async def test_an_evaluation_waits_for_training_that_began_and_training_goes_on_with_the_newest(world: World) -> None:
    world.engine = FakeEngine(in_flight_updates=True)
    manifest = await world.announce(0)
    await world.announce(1)
    world.engine.gate.clear()
    await world.send(prompt(0, "begun"))
    async with running(world.replica(make_record(max_staleness=2))):
        await until(lambda: bool(world.engine.running))
        await world.ports.bus.announce(EvalDue(job="job", version=0, manifest=manifest))
        await world.send(prompt(0, "eval", kind="eval", version=0))
        await until(lambda: world.status.in_flight == 2)
        await world.announce(2)
        await world.send(prompt(1, "later"))
        await until(lambda: world.status.in_flight == 3)
        assert world.engine.groups == [(1, "begun")]
        world.engine.gate.set()
        await world.answers("completions", 2)
    assert world.engine.groups == [(1, "begun"), (0, "eval"), (2, "later")]


async def test_evaluation_goes_first_with_exactly_its_version(world: World) -> None:
    manifest = await world.announce(1)
    await world.announce(2)
    await world.ports.bus.announce(EvalDue(job="job", version=1, manifest=manifest))
    await world.send(prompt(0, "train"))
    await world.send(prompt(0, "eval", kind="eval", version=1))
    world.engine.gate.clear()
    async with running(world.replica()):
        await until(lambda: bool(world.engine.running))
        assert world.engine.groups == [(1, "eval")]
        assert (await world.ports.ledger.view("job")).in_flight == 0  # held-out groups are not counted
        world.engine.gate.set()
        (held_out,) = await world.answers("completions", 1, "eval")
        await world.answers("completions", 1)
    assert held_out.completions[0].versions == [(1, 1)]
    assert world.engine.groups == [(1, "eval"), (2, "train")]


async def test_prompts_of_a_finished_evaluation_are_dropped(world: World) -> None:
    manifest = await world.announce(1)
    for event in (EvalDue(job="job", version=1, manifest=manifest), EvalDone(job="job", version=1, total=1, void=0)):
        await world.ports.bus.announce(event)
    await world.ports.bus.announce(EvalDue(job="job", version=2, manifest=manifest))
    await world.send(prompt(0, kind="eval", version=1))
    async with running(world.replica()):
        await until(lambda: world.prompts_left == 0)
    assert not world.engine.groups


async def test_an_evaluation_that_others_finish_is_not_waited_for(world: World) -> None:
    """The prompt of version 1 is in hand and its weights are not announced; version 2 is what keeps the queue open."""
    manifest = await world.announce(2)
    await world.ports.bus.announce(EvalDue(job="job", version=2, manifest=manifest))
    await world.send(prompt(0, kind="eval", version=1))
    async with running(world.replica(config=msgspec.structs.replace(CONFIG, weights_limit_s=60.0))):
        await until(lambda: world.status.in_flight == 1)
        await world.ports.bus.announce(EvalDone(job="job", version=1, total=1, void=0))
        await until(lambda: world.prompts_left == 0)
        await until(lambda: world.status.in_flight == 0)
    assert not world.engine.groups


async def test_a_bad_sample_is_void_at_once_and_the_others_go_on(world: World) -> None:
    await world.announce(0)
    for ordinal, text in enumerate(["good", "bad", "good"]):
        await world.send(prompt(ordinal, text))
    async with running(world.replica()):
        (void,) = await world.answers("scored", 1)
        groups = await world.answers("completions", 2)
        await until(lambda: world.prompts_left == 0)
    assert isinstance(void, Voided)
    assert (void.ordinal, void.reason, void.stage, void.detail) == (1, "bad-sample", "rollout", "the text says bad")
    assert (void.source, void.sample_id) == ("drawn", "sample-1")
    assert {group.prompt.ordinal for group in groups} == {0, 2}
    assert (await world.ports.ledger.view("job")).in_flight == 0


async def deliver(world: World, times: int) -> None:
    """Take all prompts `times` times and hand them back, like replicas that die."""
    queue = await world.ports.bus.work("prompts", "job", "train")
    for _ in range(times):
        for delivery in await queue.fetch(100, 1.0):
            await delivery.hand_back(counts=True)


async def test_what_a_dead_replica_held_is_generated_together_again(world: World) -> None:
    await world.announce(0)
    for ordinal in range(4):
        await world.send(prompt(ordinal))
    await deliver(world, 1)
    world.engine.gate.clear()
    async with running(world.replica()):
        await until(lambda: len(world.engine.running) == 4)


async def test_prompts_that_came_back_twice_are_done_alone_after_the_others(world: World) -> None:
    await world.announce(0)
    for ordinal in (0, 1):
        await world.send(prompt(ordinal))
    await deliver(world, 2)
    for ordinal in (2, 3):
        await world.send(prompt(ordinal))
    async with running(world.replica()):
        await world.answers("completions", 4)
    assert [text for _, text in world.engine.groups] == ["text 2", "text 3", "text 0", "text 1"]
    assert world.engine.most_together == 2


async def test_a_prompt_that_ends_its_process_every_time_takes_no_other_with_it(world: World) -> None:
    await world.announce(0)
    for ordinal in range(5):
        await world.send(prompt(ordinal, "poison" if ordinal == 2 else ""))
    deaths = 0
    while not world.published("scored"):
        with contextlib.suppress(Corrupt):
            async with running(world.replica()) as task:
                await until(lambda task=task: task.done() or bool(world.published("scored")))
                deaths += task.done()
    (void,) = await world.answers("scored", 1)
    groups = await world.answers("completions", 4)
    assert (void.ordinal, void.reason, deaths) == (2, "redelivered", DELIVERY_BUDGET)
    assert sorted(group.prompt.ordinal for group in groups) == [0, 1, 3, 4]


async def test_past_the_budget_the_group_is_void_and_its_letter_dead(world: World) -> None:
    await world.announce(0)
    await world.send(prompt(4))
    await deliver(world, DELIVERY_BUDGET)
    async with running(world.replica()):
        (void,) = await world.answers("scored", 1)
        (letter,) = await world.answers("dead", 1)
        await until(lambda: world.prompts_left == 0)
    assert (void.ordinal, void.reason) == (4, "redelivered")
    assert (letter.ordinal, letter.service) == (4, "rollout") and letter.deliveries > DELIVERY_BUDGET
    assert not world.engine.groups


async def test_a_group_whose_image_is_missing_is_tried_again(world: World) -> None:
    await world.announce(0)
    ref = world.ports.blobs.put(b"pixels")
    world.ports.blobs.delete(ref)
    await world.send(prompt(0, images=[ImageRef(blob=ref, width=1, height=1)]))
    async with running(world.replica()):
        await until(lambda: world.status.version == 0)
        world.ports.blobs.put(b"pixels")
        await world.answers("completions", 1)


async def test_work_in_hand_is_kept_alive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Longer than the bus would wait for a silent replica, and still delivered only once."""
    monkeypatch.setattr(hand, "HEARTBEAT_S", 0.02)
    world = World(make_ports(tmp_path, MemoryServer(ack_wait_s=0.2)))
    await world.announce(0)
    await world.send(prompt(0))
    world.engine.gate.clear()
    other = await world.ports.bus.work("prompts", "job", "train")
    async with running(world.replica()):
        await until(lambda: bool(world.engine.running))
        assert await other.fetch(1, 0.6) == []
        world.engine.gate.set()
        await world.answers("completions", 1)


async def test_a_full_stream_keeps_the_input_alive_past_the_groups_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hand, "HEARTBEAT_S", 0.02)
    world = World(make_ports(tmp_path, MemoryServer(ack_wait_s=0.3, max_bytes={"completions": 1})))
    await world.announce(0)
    await world.send(prompt(0))
    other = await world.ports.bus.work("prompts", "job", "train")
    async with running(world.replica(make_record(group_deadline_s=1.0))):
        await until(lambda: bool(world.engine.groups))
        assert await other.fetch(1, 1.8) == []
        world.ports.bus.server.streams["completions"].max_bytes = None
        world.ports.bus.server.changed()
        await world.answers("completions", 1)


async def test_a_group_past_its_deadline_is_handed_back(world: World) -> None:
    await world.announce(0)
    await world.send(prompt(0))
    world.engine.gate.clear()
    async with running(world.replica(make_record(group_deadline_s=0.1))):
        await until(lambda: len(world.engine.groups) >= 2)
        world.engine.gate.set()
        await world.answers("completions", 1)
        await until(lambda: world.prompts_left == 0)
    assert world.engine.aborted[0] == "text 0"


async def test_a_cancelled_replica_stops_its_engine_and_hands_back(world: World) -> None:
    await world.announce(0)
    await world.send(prompt(0))
    world.engine.gate.clear()
    async with running(world.replica()):
        await until(lambda: bool(world.engine.running))
    other = await world.ports.bus.work("prompts", "job", "train")
    (delivery,) = await other.fetch(1, 1.0)
    assert delivery.deliveries > 1
    assert (world.status.state, world.status.in_flight) == ("idle", 0)
    assert world.engine.aborted == ["text 0"] and world.engine.is_closed


async def test_an_engine_that_fails_ends_the_work_with_its_own_error(world: World) -> None:
    await world.announce(0)
    await world.send(prompt(0))
    world.engine.fault = Corrupt("the weights are damaged")
    with pytest.raises(Corrupt, match="damaged"):
        async with asyncio.timeout(5):
            await world.replica().run()


async def test_a_job_that_is_stopping_takes_no_more_training_prompts(world: World) -> None:
    await world.announce(0)
    await world.send(prompt(0, "train"))
    await world.ports.bus.announce(EvalDue(job="job", version=0, manifest=await world.announce(0)))
    await world.send(prompt(0, "eval", kind="eval", version=0))
    async with running(world.replica(msgspec.structs.replace(make_record(), state="stopping"))):
        await world.answers("completions", 1, "eval")
    assert [text for _, text in world.engine.groups] == ["eval"]


# ---------------------------------------------------------------- a device that the learner uses, too


async def say(world: World, turn: int, state: Any) -> None:
    await world.ports.bus.announce(DeviceTurn(job="job", turn=turn, state=state))


async def is_free(world: World, turn: int) -> None:
    """Return once the replica has said so."""
    async with asyncio.timeout(5.0):
        async for event, _ in world.ports.bus.events("job", "device"):
            if isinstance(event, DeviceTurn) and (event.turn, event.state) == (turn, "free"):
                assert event.replica == "replica-1"
                return


async def test_a_shared_device_is_left_for_the_learner_and_the_next_prompt_waits_for_its_return(world: World) -> None:
    await world.announce(0)
    world.engine.gate.clear()
    await world.send(prompt(0))
    async with running(world.replica(make_record(shares_device=True))):
        await until(lambda: len(world.engine.running) == 1)
        await say(world, 1, "wanted")
        world.engine.gate.set()
        await is_free(world, 1)
        assert world.engine.sleeps == 1 and len(await world.answers("completions", 1)) == 1
        await world.announce(1)
        await world.send(prompt(1, min_version=1))
        await until(lambda: world.prompts_left == 1 and world.status.in_flight == 1)
        assert world.engine.loads == [(0, "drain")]
        await say(world, 1, "returned")
        await world.answers("completions", 2)
    assert world.engine.groups == [(0, "text 0"), (1, "text 1")]


async def test_a_replica_that_starts_on_the_learners_turn_opens_no_engine_until_the_device_is_returned(
    world: World,
) -> None:
    await world.announce(0)
    await say(world, 3, "wanted")
    replica = world.replica(make_record(shares_device=True))
    async with running(replica):
        await is_free(world, 3)
        await until(lambda: world.status.state == "waiting for the device")
        assert await world.ports.bus.last_event("job", "engine") is None
        await say(world, 3, "returned")
        await world.send(prompt(0))
        await world.answers("completions", 1)
