"""A step that is begun before all of its groups are there: the same update, told so that it can be made again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.learner.attention.batch import Ready
from services.learner.checkpoints.progress import Progress
from services.learner.engine import StepResult, StepWork
from services.learner.overlap import overlaps
from services.learner.steps.assembler import Assembler, Lost
from services.learner.steps.by_arrival import ByArrival
from shared.errors import BadJob, Corrupt
from shared.jobs.document import parse_job
from shared.jobs.record import Change
from shared.messages import Portion, StepDone
from tests.fakes import eventually
from tests.learner.conftest import SHAPES
from tests.learner.flow_world import JOB, CountingEngine, World, scored


def groups_of(learner, make_group) -> list[Ready]:
    return [learner.ingest(*make_group(ordinal, **shape)) for ordinal, shape in enumerate(SHAPES)]


def make(learner, groups: Sequence[Ready], *portions: list[int], importance: bool = False, number: int = 1):
    return learner.step(groups, number, importance, portions)


def equal(one, other) -> bool:
    found = other.weights("trained")
    return all(torch.equal(tensor, found[name]) for name, tensor in one.weights("trained").items())


# ---------------------------------------------------------------- the update


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"kl_coefficient": 0.1, "entropy_coefficient": 0.01},
        {"loss": "gspo", "correction": "sequence"},
    ],
)
def test_a_step_of_portions_has_the_gradient_and_the_measures_of_a_whole_one(
    make_engine, make_group, aggregation, more
):
    settings = {"algorithm": {"aggregation": aggregation, **more}}
    whole, cut = make_engine(**settings), make_engine(**settings)
    for number in (1, 2):  # at the second the reference is another policy than the model
        one = make(whole, groups_of(whole, make_group), importance=True, number=number)
        other = make(cut, groups_of(cut, make_group), [3, 0], [2, 4], importance=True, number=number)
        assert other.num_response_tokens == one.num_response_tokens == 58
        assert other.metrics == pytest.approx(one.metrics, rel=2e-4, abs=2e-5)
    for name, tensor in whole.weights("trained").items():
        torch.testing.assert_close(cut.weights("trained")[name], tensor, atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    "learner", [{"dtype": "float32"}, {"dtype": "bfloat16"}, {"dtype": "bfloat16", "lora_rank": 2}]
)
def test_begun_before_or_made_at_once_the_bits_are_the_same(make_engine, make_group, learner):
    settings = {"learner": {"tokens_per_batch": 40, **learner}, "optimizer": {"freeze": ["vit"]}}
    begun, replayed = make_engine(**settings), make_engine(**settings)
    groups = groups_of(begun, make_group)
    begun.engine.begin([groups[3], groups[0]], importance=True)
    begun.engine.begin([groups[2], groups[4]], importance=True)
    one = make(begun, groups, [3, 0], [2, 4], importance=True)
    other = make(replayed, groups_of(replayed, make_group), [3, 0], [2, 4], importance=True)
    assert one.metrics == other.metrics
    assert equal(begun, replayed)


def test_portions_are_computed_with_half_of_the_threads_before_their_step_or_in_it(make_engine, make_group):
    """The bits follow the number of threads, which a step that is made again must therefore repeat."""
    torch.set_num_threads(4)
    try:
        begun, replayed = make_engine(), make_engine()
        threads = {}
        for learner in (begun, replayed):
            counts = threads[id(learner)] = []
            learner.model.hf.lm_head.register_forward_pre_hook(
                lambda *_, counts=counts: counts.append(torch.get_num_threads())
            )
        groups = groups_of(begun, make_group)
        begun.engine.begin(groups[:3], importance=False)
        assert set(threads[id(begun)]) == {2}
        make(begun, groups, [0, 1, 2])
        make(replayed, groups_of(replayed, make_group), [0, 1, 2])
        assert sorted(set(threads[id(begun)])) == [2, 4]
        assert threads[id(replayed)] == threads[id(begun)]
        assert torch.get_num_threads() == 4
        assert equal(begun, replayed)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("portions", "importance"), [([], False), ([[0, 1]], True), ([[1, 0]], False)])
def test_what_was_begun_is_dropped_where_the_step_is_another_one(make_engine, make_group, portions, importance):
    begun, plain = make_engine(), make_engine()
    groups = groups_of(begun, make_group)
    begun.engine.begin(groups[:2], importance=False)
    one = make(begun, groups, *portions, importance=importance)
    other = make(plain, groups_of(plain, make_group), *portions, importance=importance)
    assert one.metrics == other.metrics
    assert equal(begun, plain)


def test_a_step_whose_groups_are_all_uniform_is_as_it_is_without_portions(make_engine, make_group):
    """A uniform group is not computed; one of them is, so that the step measures something."""
    whole, cut = make_engine(), make_engine()
    flat = [whole.ingest(*make_group(ordinal, rewards=[0.5, 0.5])) for ordinal in (0, 1, 2)]
    one, other = make(whole, flat), make(cut, flat, [0], [2, 1])
    assert one.metrics == other.metrics
    assert equal(whole, cut)


def test_a_gradient_that_is_not_finite_is_skipped_with_portions_too(make_engine, make_group):
    learner = make_engine()
    groups = groups_of(learner, make_group)
    learner.model.hf.lm_head.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = learner.weights("trained")
    result = make(learner, groups, [0], importance=True)
    assert (result.skipped, result.updates) == (1, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.weights("trained").items())


# ---------------------------------------------------------------- which groups are certain


def test_groups_below_the_end_of_the_step_are_certain_those_behind_it_depend_on_the_voids() -> None:
    assembler: Assembler[str] = Assembler(Progress(), 3)
    for sequence, ordinal in enumerate((0, 2, 4), 1):
        assembler.is_new(ordinal, sequence)
        assembler.add(ordinal, f"group {ordinal}")
    assert list(assembler.certain()) == [0, 2]
    assembler.lose(1, Lost("bad-sample"))
    assert list(assembler.certain()) == [0, 2], "1 and 3 are of the step, or 4 is"
    assembler.lose(3, Lost("bad-sample"))
    assert list(assembler.certain()) == [0, 2, 4]


@given(data=st.data(), batch=st.integers(1, 6), cap=st.integers(0, 4), end=st.integers(0, 20))
def test_a_certain_group_is_one_that_the_step_takes(data: st.DataObject, batch: int, cap: int, end: int) -> None:
    """Whatever comes in whatever order: voids, uniform groups, and the order's end."""
    assembler: Assembler[int] = Assembler(Progress(), batch, cap)
    certain: set[int] = set()
    for sequence, ordinal in enumerate(data.draw(st.permutations(range(20))), 1):
        if sequence == end:
            assembler.end = end
        assembler.is_new(ordinal, sequence)
        match data.draw(st.sampled_from(("void", "uniform", "group", "group"))):
            case "void":
                assembler.lose(ordinal, Lost("bad-sample"))
            case kind:
                assembler.add(ordinal, ordinal, uniform=Lost("filtered") if kind == "uniform" else None)
        step = assembler.next_step()
        if step is not None:
            # Of an end that is told late, groups behind it are no step's.
            assert certain <= set(step.groups) or assembler.end is not None
            assert {one for one in certain if assembler.end is None or one < assembler.end} <= set(step.groups)
            return
        assert certain <= set(assembler.certain()), "and stays certain"
        certain = set(assembler.certain())


def test_by_arrival_nothing_is_certain_before_the_step_is() -> None:
    assembler: ByArrival[int] = ByArrival(Progress(), 3)
    assembler.is_new(0, 1)
    assembler.add(0, 0)
    assert assembler.certain() == {}


@pytest.mark.parametrize("ordinals", [[0, 3], [1, 1]])
def test_told_portions_with_groups_that_the_step_has_not_or_has_once_are_corrupt(ordinals: list[int]) -> None:
    script: dict[int, StepDone] = {}
    assembler: Assembler[int] = Assembler(Progress(), 2, script=script)
    portions = [Portion([0], 0.0, 0.0), Portion([1], 0.0, 0.0)]
    told = StepDone(
        job="j",
        step=1,
        incarnation=0,
        trained=[0, 1],
        voided=[],
        staleness=[0, 0],
        metrics={},
        advantages={},
        timing={},
        portions=portions,
    )
    for ordinal in (0, 1):
        assembler.is_new(ordinal, ordinal + 1)
        assembler.add(ordinal, ordinal)
    script[1] = told
    assert assembler.next_step() is not None
    script[1] = msgspec.structs.replace(told, portions=[*portions, Portion(ordinals, 0.0, 0.0)])
    with pytest.raises(Corrupt, match=r"step 1 tells portions with groups .*, expected each once and trained on"):
        assembler.next_step()


# ---------------------------------------------------------------- the flow


class Beginner(CountingEngine):
    """Its weight follows the order in which groups were computed, as the last bits of a sum do."""

    def __init__(self, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self.begun: list[list[int]] = []
        self.something = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def begin(self, groups: Sequence[Ready], *, importance: bool) -> None:
        self.begun.append([group.ordinal for group in groups])
        self._loop.call_soon_threadsafe(self.something.set)

    def step(self, work: StepWork) -> StepResult:
        assert not self.begun or self.begun == [list(portion) for portion in work.portions]
        self.begun = []
        self._loop.call_soon_threadsafe(self.something.clear)
        of = {group.ordinal: group for group in work.groups}
        first = [of.pop(ordinal) for portion in work.portions for ordinal in portion]
        return super().step(StepWork(work.step, work.total_steps, work.importance, [*first, *of.values()]))


class Waiting(World):
    """The last group of a step is generated when something of the step was begun; `in_order`: all but the first."""

    def __init__(self, runs: Path, engine: Beginner, **more: object) -> None:
        super().__init__(runs, overlap="on", **more)  # type: ignore[arg-type]
        self.engine, self.in_order = engine, False

    async def before(self, left: int) -> None:
        if left == 1 or (self.in_order and left < 4):
            await self.engine.something.wait()

    def arrange(self, ordinals: list[int]) -> list[int]:
        return ordinals if self.in_order else super().arrange(ordinals)


def portions_of(step: StepDone) -> list[list[int]]:
    return [portion.ordinals for portion in step.portions]


def weight_of(steps: Sequence[StepDone]) -> torch.Tensor:
    """What an engine comes to that makes these steps as they were told."""
    alone = Beginner()
    for step in steps:
        ready = [alone.ready(scored(ordinal, 0), []) for ordinal in step.trained]
        alone.step(StepWork(step.step, 6, step.importance, ready, portions_of(step)))
    return alone.weight


async def test_what_has_come_is_computed_while_the_last_group_is_generated_and_told(tmp_path: Path) -> None:
    engine = Beginner()
    world = Waiting(tmp_path, engine)
    await world.submit()
    await world.learn(engine)
    steps = await world.steps()
    assert [step.trained for step in steps] == [[4 * s, 4 * s + 1, 4 * s + 2, 4 * s + 3] for s in range(6)]
    for step in steps:
        begun = [ordinal for portion in portions_of(step) for ordinal in portion]
        assert begun and set(begun) < set(step.trained)
        assert all(portion.started_at <= portion.finished_at <= step.finished_at for portion in step.portions)
        assert step.timing["overlap_s"] > 0 and step.timing["wait_s"] >= 0


@pytest.mark.parametrize("dies_at", [2, 4, 5])
async def test_a_learner_that_starts_again_sums_in_the_order_that_was_told(tmp_path: Path, dies_at: int) -> None:
    """It died with a portion of the step begun, a checkpoint behind it or not."""
    first = Beginner(die_before_step=dies_at)
    world = Waiting(tmp_path, first, checkpoint_every=3)
    await world.submit()
    await world.learn(first)
    told = await world.steps()
    world.engine = again = Beginner()
    await world.learn(again)
    steps = await world.steps()
    assert steps[: len(told)] == told
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert torch.equal(again.weight, weight_of(steps))


async def test_an_engine_that_cannot_begin_and_a_job_that_does_not_want_it_wait_for_the_whole_step(
    tmp_path: Path,
) -> None:
    for number, (engine, overlap) in enumerate([(CountingEngine(), "on"), (Beginner(), "off"), (Beginner(), "auto")]):
        world = World(tmp_path / str(number), overlap=overlap)
        await world.submit()
        await world.learn(engine)
        assert not any(step.portions for step in await world.steps()), "auto: on a GPU alone"


class Dropping(Beginner):
    """Remembers of which steps it was told to drop what it had begun."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped: list[int] = []
        self.weighed: list[int] = []

    def begin(self, groups: Sequence[Ready], *, importance: bool) -> None:
        self.weighed += [group.ordinal for group in groups if importance]
        super().begin(groups, importance=importance)

    def step(self, work: StepWork) -> StepResult:
        if self.begun and not work.portions:
            self.begun = []
            self.dropped.append(work.step)
        return super().step(work)


@pytest.mark.parametrize("late", [9, 10, 11])
async def test_portions_are_dropped_when_a_later_group_of_the_step_is_stale(tmp_path: Path, late: int) -> None:
    """Then the whole step has importance weights, and what was computed has none."""
    engine = Dropping()
    world = Waiting(tmp_path, engine)
    world.in_order = True
    world.spoil = lambda record: scored(late, 0) if record.prompt.ordinal == late else record
    await world.submit()
    await world.learn(engine)
    steps = await world.steps()
    assert [step.step for step in steps if step.importance] == engine.dropped == [3]
    assert not engine.weighed
    assert [bool(step.portions) for step in steps] == [True, True, False, True, True, True]


class Interrupted(Waiting):
    """Something happens when the last group of step 3 is still generated and another one of it is computed."""

    def __init__(self, runs: Path, engine: Beginner, happens: Callable[[World], Awaitable[None]]) -> None:
        super().__init__(runs, engine, checkpoint_every=0)
        self._happens = happens

    async def before(self, left: int) -> None:
        await super().before(left)
        if left == 1 and self.published == 12:
            await self._happens(self)


async def test_portions_are_dropped_when_the_bound_is_raised_between_them(tmp_path: Path) -> None:
    """From then on the sampler can be older than the learner, and every token is weighed."""

    async def raised(world: World) -> None:
        change = Change(key="max_staleness", value=1, requested_at=0.0)
        await world.jobs.update(JOB, lambda old: msgspec.structs.replace(old, changes=[change]))

        async def is_fixed() -> bool:
            changes = world.learners.record.changes
            return bool(changes) and changes[0].since == 3

        await eventually(is_fixed)

    engine = Dropping()
    world = Interrupted(tmp_path, engine, raised)
    await world.submit()
    await world.learn(engine)
    steps = await world.steps()
    assert [step.importance for step in steps] == [False, False, True, True, True, True]
    assert engine.dropped == [3]
    assert all(ordinal >= 12 for ordinal in engine.weighed)


async def test_a_checkpoint_between_portions_has_nothing_of_them(tmp_path: Path) -> None:
    engine = Beginner(die_before_step=3)

    async def is_saved() -> bool:
        return bool(engine.saved_after)

    async def wanted(world: World) -> None:
        if not engine.saved_after:
            await world.jobs.update(JOB, lambda old: msgspec.structs.replace(old, checkpoint_wanted=1))
            await eventually(is_saved)

    world = Interrupted(tmp_path, engine, wanted)
    await world.submit()
    await world.learn(engine)
    assert engine.saved_after == [2]
    world.engine = again = Beginner()
    await world.learn(again)
    assert torch.equal(again.weight, weight_of(await world.steps()))


# ---------------------------------------------------------------- the job file


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"learner": {"overlap": "on"}, "rollout": {"shares_device": True}}, "rollout.shares_device true"),
        ({"learner": {"overlap": "on"}, "algorithm": {"updates_per_step": 2}}, "algorithm.updates_per_step 2; exp"),
        ({"learner": {"overlap": "on"}, "algorithm": {"advantage": "reinforce_baseline"}}, "'reinforce_baseline'"),
        ({"learner": {"overlap": "on"}, "algorithm": {"order": "arrival"}}, "algorithm.order 'arrival'"),
    ],
)
def test_a_job_whose_step_needs_its_groups_together_is_refused_with_the_key(tables, sentence) -> None:
    document = {"model": "m", "total_steps": 10, "data": {"train": ["x"]}}
    with pytest.raises(BadJob, match=r"learner\.overlap is 'on' with") as refused:
        parse_job(document | tables)
    assert sentence in str(refused.value)
    tables["learner"] = tables["learner"] | {"overlap": "auto"}
    assert not overlaps(parse_job(document | tables)), "auto knows"
