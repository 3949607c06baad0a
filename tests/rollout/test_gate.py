"""Which weights run, and what may start on them: by hand, and in a thousand random schedules."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from services.rollout.engine import Loaded, Traits, UpdateMode
from services.rollout.gate import Bell, Gate, Target, Want
from shared.blobs.manifest import WeightsManifest
from shared.blobs.weights import WeightsAt
from shared.errors import BlobMissing, Unavailable
from shared.messages import BlobRef
from shared.runtime.retry import BLOB_STORE, Retry
from shared.staleness import staleness, window_end

NOWHERE = BlobRef(digest="", size=0)


def manifest_of(version: int) -> WeightsManifest:
    return WeightsManifest(version=version, digest="", blobs=(), frozen=(), trained=())


class Announced:
    """What has been announced, set by the test."""

    def __init__(self) -> None:
        self.news = Bell()
        self.newest: Target | None = None
        self.window_end = self.next_end = 0
        self.open: dict[int, Target] = {}
        self.done: set[int] = set()

    def admits(self, ordinal: int) -> bool:
        return ordinal < self.window_end

    def expects(self, ordinal: int) -> bool:
        return ordinal < max(self.window_end, self.next_end)

    def due(self, version: int) -> Target | None:
        return self.open.get(version)

    def evaluation_done(self, version: int) -> bool:
        return version in self.done


class Weights:
    """Any version is here at once."""

    def __init__(self) -> None:
        self.running: Target | None = None

    def at(self, target: Target) -> WeightsAt:
        return WeightsAt(target.manifest, manifest_of(target.version), ())

    def loaded(self, target: Target, at: WeightsAt) -> None:
        self.running = target

    def runs(self, target: Target) -> bool:
        return self.running == target

    def forget(self) -> None:
        self.running = None


@dataclass
class TokenEngine:
    """Samples a token a turn of the loop, each with the version that runs then; a load takes some turns, too."""

    random: random.Random
    traits: Traits
    version: int = -1
    running: int = 0
    loads: list[tuple[int, str, int]] = field(default_factory=list)

    async def load(self, at: WeightsAt, *, mode: UpdateMode) -> Loaded:
        assert mode == "keep" or not self.running
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        self.version = at.version
        self.loads.append((at.version, mode, self.running))
        return Loaded(at.version, 0.0, self.running)

    async def sleep(self) -> None:
        assert not self.running
        self.version = -1

    async def sample(self, tokens: int) -> list[int]:
        self.running += 1
        versions = []
        for _ in range(tokens):
            versions.append(self.version)
            await asyncio.sleep(0)
        self.running -= 1
        return versions


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What blocks runs in the loop: schedules follow the seed alone."""

    async def at_once(work, *arguments):  # type: ignore[no-untyped-def]
        await asyncio.sleep(0)
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)


async def told(loaded: Loaded, fetched: int, seconds: float) -> None:
    assert loaded.version >= 0 == fetched <= seconds


class Loop:
    """Data, two replicas and a learner around the real gate and the real window rule, in one random schedule."""

    def __init__(self, seed: int, *, in_flight_updates: bool) -> None:
        self.random = random.Random(seed)
        self.eta, self.b, self.steps = (
            self.random.randrange(4),
            self.random.randrange(1, 5),
            self.random.randrange(1, 7),
        )
        self.announced = Announced()
        self.finished: dict[int, list[int]] = {}
        self.stale: list[int] = []
        self.early = 0  # prompts that went out before their version
        self.step, self.cursor = 0, 0
        self.replicas = [self._replica(in_flight_updates) for _ in range(2)]

    def _replica(self, in_flight_updates: bool) -> tuple[Gate, TokenEngine]:
        engine = TokenEngine(self.random, Traits(room=self.random.randrange(1, 9), in_flight_updates=in_flight_updates))
        mode: UpdateMode = "keep" if self.eta else "drain"
        return Gate(engine, self.announced, Weights(), mode, 5.0, told, Retry()), engine  # type: ignore[arg-type]

    def publish(self) -> None:
        """The newest weights and their window."""
        self.announced.newest = Target(self.step, NOWHERE)
        if self.random.random() < 0.3:
            self.announced.open[self.step] = Target(self.step, NOWHERE)
        self.announced.window_end = max(self.announced.window_end, self.window_of(self.step))
        self.announced.news.ring()

    def window_of(self, version: int) -> int:
        return window_end(
            cursor=version * self.b, version=version, total_steps=self.steps, prompts_per_step=self.b,
            max_staleness=self.eta, lost=0,
        )  # fmt: skip

    def look_ahead(self) -> None:
        """On-policy, while the next version is computed, its prompts may go out."""
        if self.eta == 0 and self.random.random() < 0.7:
            self.announced.next_end = self.window_of(self.step + 1)
            self.announced.news.ring()

    async def run(self) -> None:
        async with asyncio.timeout(60.0), asyncio.TaskGroup() as steering:
            tasks = [steering.create_task(gate.steer()) for gate, _ in self.replicas]
            self.publish()
            async with asyncio.TaskGroup() as groups:
                groups.create_task(self.data(groups))
                groups.create_task(self.learner())
            for task in tasks:
                task.cancel()

    async def data(self, tasks: asyncio.TaskGroup) -> None:
        """Publishes each ordinal once a window admits it or will, with the version that does; held-out in between."""
        await self.announced.news.until(lambda: self.announced.newest)
        for ordinal in range(self.steps * self.b):
            await self.announced.news.until(lambda ordinal=ordinal: self.announced.expects(ordinal))
            waits = not self.announced.admits(ordinal)
            self.early += waits
            tasks.create_task(self.group(self.random.choice(self.replicas), ordinal, self.step + waits))
            for version in [one for one in self.announced.open if one not in self.announced.done]:
                tasks.create_task(self.evaluate(self.random.choice(self.replicas), version))

    async def group(self, replica: tuple[Gate, TokenEngine], ordinal: int, min_version: int) -> None:
        gate, engine = replica
        rows = self.random.randrange(1, 4)
        async with gate.enter(Want(ordinal, rows, at_least=min_version)) as admitted:
            assert admitted
            self.finished[ordinal] = await engine.sample(self.random.randrange(1, 12))
        self.announced.news.ring()

    async def evaluate(self, replica: tuple[Gate, TokenEngine], version: int) -> None:
        gate, engine = replica
        async with gate.enter(Want(0, 1, exactly=version)) as admitted:
            if admitted:
                assert set(await engine.sample(self.random.randrange(1, 6))) == {version}
                if self.random.random() < 0.3:
                    self.announced.done.add(version)

    async def learner(self) -> None:
        """Consumes the ordinals in order; a step is B groups."""
        while self.step < self.steps:
            wanted = range(self.cursor, self.cursor + self.b)
            await self.announced.news.until(lambda wanted=wanted: all(one in self.finished for one in wanted))
            self.stale += [staleness(self.step, min(self.finished[one])) for one in wanted]
            self.look_ahead()
            for _ in range(self.random.randrange(6)):
                await asyncio.sleep(0)
            self.step, self.cursor = self.step + 1, self.cursor + self.b
            self.publish()


@pytest.mark.parametrize("in_flight_updates", [True, False])
async def test_staleness_never_passes_its_bound_in_a_thousand_random_schedules(in_flight_updates: bool) -> None:
    changed_in_flight = reached = early = 0
    for seed in range(1000 if in_flight_updates else 200):
        loop = Loop(seed, in_flight_updates=in_flight_updates)
        await loop.run()
        assert len(loop.stale) == loop.steps * loop.b
        assert max(loop.stale) <= loop.eta, f"seed {seed}"
        early += loop.early
        reached += max(loop.stale) == loop.eta > 0
        changed_in_flight += any(len(set(versions)) > 1 for versions in loop.finished.values())
    assert reached > 20
    assert early > 100
    assert (changed_in_flight > 100) == in_flight_updates


def while_a_step_is_made(limit_s: float) -> tuple[Announced, TokenEngine, Gate]:
    """Four prompts are the step's, four wait for the version that it makes."""
    announced, engine = Announced(), TokenEngine(random.Random(0), Traits(room=8, in_flight_updates=False))
    announced.newest, announced.window_end, announced.next_end = Target(0, NOWHERE), 4, 8
    return announced, engine, Gate(engine, announced, Weights(), "drain", limit_s, told, Retry())  # type: ignore[arg-type]


async def test_a_prompt_that_is_early_waits_for_its_version_however_long_that_takes() -> None:
    announced, engine, gate = while_a_step_is_made(limit_s=0.0)
    async with asyncio.timeout(60.0), asyncio.TaskGroup() as tasks:
        steering = tasks.create_task(gate.steer())
        waiting = tasks.create_task(sampled(gate, engine, Want(4, 1, at_least=1)))
        with pytest.raises(TimeoutError):
            await sampled(gate, engine, Want(8, 1, at_least=1))  # nobody has said that its weights will come
        for _ in range(100):
            await asyncio.sleep(0)
        assert gate.version == 0 and not waiting.done()
        announced.newest, announced.window_end = Target(1, NOWHERE), 8
        announced.news.ring()
        assert await waiting == [1, 1]
        steering.cancel()


async def test_a_prompt_that_is_early_starts_at_once_when_the_window_widens_over_it() -> None:
    """As when a group of the step that is being made turns out to be gone: the step needs one more."""
    announced, engine, gate = while_a_step_is_made(limit_s=5.0)
    async with asyncio.timeout(60.0), asyncio.TaskGroup() as tasks:
        steering = tasks.create_task(gate.steer())
        waiting = [tasks.create_task(sampled(gate, engine, Want(one, 1, at_least=1))) for one in (4, 5)]
        announced.window_end = 5
        announced.news.ring()
        assert await waiting[0] == [0, 0]
        assert not waiting[1].done()
        announced.newest, announced.window_end = Target(1, NOWHERE), 9
        announced.news.ring()
        assert await waiting[1] == [1, 1]
        steering.cancel()


class AwayWeights(Weights):
    """The blob store is away, then shows its blobs late, as a shared one may; `said` is the state at each try."""

    def __init__(self, retry: Retry, *errors: Exception) -> None:
        super().__init__()
        self.retry, self.errors = retry, list(errors)
        self.said: list[str] = []

    def at(self, target: Target) -> WeightsAt:
        self.said.append(self.retry.waiting_for)
        if self.errors:
            raise self.errors.pop(0)
        return super().at(target)


async def test_weights_in_a_blob_store_that_is_away_are_waited_for_and_the_state_says_so() -> None:
    announced, retry = Announced(), Retry(longest_pause_s=0.01)
    away = [Unavailable("the store is away") for _ in range(5)]
    weights = AwayWeights(retry, *away, BlobMissing("not there yet"))
    engine = TokenEngine(random.Random(0), Traits(room=8, in_flight_updates=False))
    gate = Gate(engine, announced, weights, "drain", 5.0, told, retry)  # type: ignore[arg-type]
    steering = asyncio.ensure_future(gate.steer())
    announced.newest = Target(1, NOWHERE)
    async with asyncio.timeout(60.0):
        async with gate.enter(Want(0, 1, at_least=1)) as is_in:
            assert is_in
    assert gate.version == 1
    assert weights.said == ["", *[BLOB_STORE] * 6]
    assert retry.waiting_for == ""
    steering.cancel()
    await asyncio.wait({steering})


async def test_a_lent_device_is_left_once_what_is_inside_has_ended_and_the_engine_wakes_with_the_newest_weights() -> (
    None
):
    announced, engine = Announced(), TokenEngine(random.Random(0), Traits(room=8, in_flight_updates=False))
    gate = Gate(engine, announced, Weights(), "drain", 5.0, told, Retry())  # type: ignore[arg-type]
    announced.newest = Target(1, NOWHERE)
    async with asyncio.timeout(60.0), asyncio.TaskGroup() as tasks:
        steering = tasks.create_task(gate.steer())
        async with gate.enter(Want(0, 1, at_least=1)):
            lending = tasks.create_task(gate.lend())
            assert await engine.sample(5) == [1] * 5
            assert not lending.done()
        await lending
        announced.newest = Target(2, NOWHERE)
        announced.news.ring()
        entering = tasks.create_task(sampled(gate, engine, Want(1, 1, at_least=1)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert engine.version == -1 and not entering.done(), "nothing enters, nothing is loaded"
        gate.take_back()
        assert await entering == [2, 2]
        steering.cancel()
    assert [version for version, _, _ in engine.loads] == [1, 2]


async def sampled(gate: Gate, engine: TokenEngine, want: Want) -> list[int]:
    async with gate.enter(want) as admitted:
        assert admitted
        return await engine.sample(2)


class SlowWeights(Weights):
    """Fetching takes until it is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    def at(self, target: Target) -> WeightsAt:
        self.done.append(f"fetched {target.version}")
        return super().at(target)

    def forget(self) -> None:
        self.done.append("forgot")
        super().forget()


async def test_weights_that_were_on_their_way_when_the_device_was_lent_are_fetched_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was fetched is what has changed since weights that the engine does not have any more."""
    ends = asyncio.Event()

    async def slowly(work, *arguments):  # type: ignore[no-untyped-def]
        await ends.wait()
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", slowly)
    announced, weights = Announced(), SlowWeights()
    engine = TokenEngine(random.Random(0), Traits(room=8, in_flight_updates=False))
    gate = Gate(engine, announced, weights, "drain", 5.0, told, Retry())  # type: ignore[arg-type]
    announced.newest = Target(1, NOWHERE)
    async with asyncio.timeout(60.0), asyncio.TaskGroup() as tasks:
        steering = tasks.create_task(gate.steer())
        await asyncio.sleep(0)
        lending = tasks.create_task(gate.lend())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not lending.done()
        ends.set()
        await lending
        gate.take_back()
        async with gate.enter(Want(0, 1, at_least=1)):
            assert weights.done == ["fetched 1", "forgot", "fetched 1"]
        steering.cancel()


class Counted(Announced):
    """How often it was looked at."""

    looks = 0

    def evaluation_done(self, version: int) -> bool:
        self.looks += 1
        return super().evaluation_done(version)


def gate_of(announced: Announced, room: int) -> Gate:
    engine = TokenEngine(random.Random(0), Traits(room=room, in_flight_updates=False))
    return Gate(engine, announced, Weights(), "drain", 60.0, told, Retry())  # type: ignore[arg-type]


async def test_a_change_wakes_none_but_those_whom_it_lets_in_however_many_wait() -> None:
    announced, inside = Counted(), list[int]()
    gate = gate_of(announced, room=8)
    steering = asyncio.ensure_future(gate.steer())

    async def group(ordinal: int) -> None:
        async with gate.enter(Want(ordinal, 1, exactly=0)) as is_in:
            assert is_in
            inside.append(ordinal)
            await asyncio.sleep(0)

    async with asyncio.timeout(60.0), asyncio.TaskGroup() as groups:
        for ordinal in reversed(range(400)):
            groups.create_task(group(ordinal))
        await asyncio.sleep(0)
        announced.open[0] = Target(0, NOWHERE)
        before = announced.looks
        announced.news.ring()
    assert inside == list(range(400))
    assert announced.looks - before < 20 * 400
    await gate.empty()
    steering.cancel()
    await asyncio.wait({steering})


async def test_a_group_that_is_cancelled_at_the_gate_or_just_let_in_leaves_its_place_to_the_next() -> None:
    announced = Announced()
    gate = gate_of(announced, room=1)

    async def group(ordinal: int) -> int:
        async with gate.enter(Want(ordinal, 1)):
            return ordinal

    first, second, third = (asyncio.ensure_future(group(ordinal)) for ordinal in range(3))
    await asyncio.sleep(0)
    first.cancel()  # while it waits, at the front

    def cancel_second() -> None:
        """It has been let in, and does not know it yet."""
        if gate.version == 0:
            second.cancel()

    announced.newest = Target(0, NOWHERE)
    steering = asyncio.ensure_future(gate.steer())
    async with asyncio.timeout(60.0):
        announced.news.listen(cancel_second)
        assert await third == 2
        await gate.empty()
    assert first.cancelled()
    assert second.cancelled()
    steering.cancel()
    await asyncio.wait({steering})
