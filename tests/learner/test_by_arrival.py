"""`algorithm.order = "arrival"`: which groups a step takes, worked by hand, and the bound under random schedules."""

import random
from collections.abc import Iterable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from services.learner.checkpoints.progress import Progress
from services.learner.steps.assembler import Lost, Step
from services.learner.steps.by_arrival import ByArrival
from shared.messages import StepDone
from shared.staleness import window_end


def arrived(ordinals: Iterable[int], *, batch: int, end: int, due: int, filter_cap: int = 0) -> ByArrival[int]:
    """Groups in the order in which they came, of a window that ends at `end`."""
    made: ByArrival[int] = ByArrival(Progress(), batch, filter_cap)
    made.admit(end, due)
    for sequence, ordinal in enumerate(ordinals, 1):
        assert made.is_new(ordinal, sequence)
        made.add(ordinal, ordinal)
    return made


def test_a_step_takes_the_first_groups_that_have_come() -> None:
    assembler = arrived([3, 1, 2], batch=2, end=4, due=1)
    step = assembler.next_step()
    assert step is not None and list(step.groups) == [1, 3]
    assembler.consume(step)
    assert (assembler.progress.cursor, assembler.progress.ahead) == (0, {1, 3})
    assert assembler.open(4) == {0: None, 2: None}
    assert assembler.lost() == 2, "both let the window go on"


def test_a_step_waits_for_a_group_that_would_be_too_old_for_the_next_one() -> None:
    """Window 0 ends at 4 and is due on weights 1; the first step left 0 and 1, so the next must take both."""
    assembler = arrived([2, 3, 4, 5, 1], batch=2, end=4, due=1)
    assembler.admit(6, 2)
    first = assembler.next_step()
    assert first is not None and list(first.groups) == [2, 3]
    assembler.consume(first)
    assembler.progress.step = 1
    assert assembler.next_step() is None
    assembler.is_new(0, 6)
    assembler.add(0, 0)
    second = assembler.next_step()
    assert second is not None and list(second.groups) == [0, 1]
    assembler.consume(second)
    assert (assembler.cursor, assembler.progress.ahead) == (4, set())


def test_of_a_window_that_would_not_fit_into_the_steps_that_are_left_so_many_go_first() -> None:
    """5 groups must be trained on weights 0 or 1, 4 to a step: one goes now, the other places are by arrival."""
    assembler = arrived([7, 6, 0, 1, 2, 5], batch=4, end=5, due=1)
    assembler.admit(8, 2)
    step = assembler.next_step()
    assert step is not None and list(step.groups) == [0, 1, 6, 7]


def test_the_last_step_of_an_order_is_short() -> None:
    assembler = arrived([1, 0], batch=4, end=8, due=1)
    assert assembler.next_step() is None
    assembler.end = 3
    assembler.is_new(2, 3)
    assembler.lose(2, Lost("bad-sample"))
    step = assembler.next_step()
    assert step is not None and (list(step.groups), list(step.lost)) == ([0, 1], [2])
    assembler.consume(step)
    assert assembler.exhausted and assembler.next_step() is None


class World:
    """Groups that come in any order, some void, some uniform; a learner that may die and read its log again."""

    def __init__(self, rng: random.Random, eta: int, batch: int, steps: int, filter_cap: int) -> None:
        self.rng, self.eta, self.batch, self.steps, self.filter_cap = rng, eta, batch, steps, filter_cap
        self.end = self.published = 0
        self.flying: list[tuple[int, int]] = []  # (ordinal, version that admitted it)
        self.journal: list[tuple[int, int | None, bool]] = []  # (ordinal, its version or None: void, is uniform)
        self.announced: list[tuple[int, int]] = []  # (end, due)
        self.told: list[StepDone] = []
        self.start(Progress())

    def start(self, progress: Progress) -> None:
        """A learner that goes on from `progress`, with the announcements and the steps that were told behind it."""
        self.learner: ByArrival[int] = ByArrival(progress, self.batch, self.filter_cap)
        self.learner.script = {done.step: done for done in self.told if done.step > progress.step}
        self.learner.resume()
        for window in self.announced:
            self.learner.admit(*window)
        self.read = progress.offset - 1
        self.saved = msgspec.json.encode(progress)

    def announce(self) -> None:
        if self.learner.is_told:
            return  # it replays
        progress = self.learner.progress
        new = window_end(
            cursor=progress.cursor,
            version=progress.step,
            total_steps=self.steps,
            prompts_per_step=self.batch,
            max_staleness=self.eta,
            lost=self.learner.lost(),
        )
        self.end = max(self.end, new)
        self.announced.append((self.end, progress.step + self.eta))
        self.learner.admit(*self.announced[-1])
        self.flying += [(ordinal, progress.step) for ordinal in range(self.published, self.end)]
        self.published = max(self.published, self.end)

    def arrive(self, loss: float, uniform: float) -> None:
        ordinal, admitted = self.flying.pop(self.rng.randrange(len(self.flying)))
        made_by = None if self.rng.random() < loss else admitted
        self.journal.append((ordinal, made_by, self.rng.random() < uniform))

    def hear(self) -> None:
        """Read what the journal has behind what was read."""
        for sequence in range(self.read + 1, len(self.journal) + 1):
            ordinal, made_by, is_uniform = self.journal[sequence - 1]
            if self.learner.is_new(ordinal, sequence):
                if made_by is None:
                    self.learner.lose(ordinal, Lost("bad-sample"))
                else:
                    self.learner.add(ordinal, made_by, uniform=Lost("filtered") if is_uniform else None)
        self.read = len(self.journal)

    def train(self, step: Step[int]) -> None:
        progress = self.learner.progress
        assert all(progress.step - made_by <= self.eta for made_by in step.groups.values())
        if not self.learner.is_told:
            self.told.append(done(progress.step + 1, list(step.groups), list(step.lost)))
        self.learner.consume(step)
        progress.step += 1

    def checkpoint(self) -> None:
        self.learner.progress.offset = self.learner.offset()
        self.saved = msgspec.json.encode(self.learner.progress)

    def die(self) -> None:
        self.start(msgspec.json.decode(self.saved, type=Progress))


def done(step: int, trained: list[int], voided: list[int]) -> StepDone:
    return StepDone(
        job="job", step=step, incarnation=0, trained=trained, voided=voided, staleness=[], metrics={}, advantages={},
        timing={},
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    eta=st.integers(0, 4),
    batch=st.integers(1, 6),
    steps=st.integers(1, 12),
    loss=st.floats(0.0, 0.5),
    uniform=st.floats(0.0, 0.7),
    filter_cap=st.integers(0, 12),
    deaths=st.floats(0.0, 0.1),
)
def test_each_group_is_trained_once_within_its_bound_and_a_learner_that_died_repeats_what_was_told(
    seed: int, eta: int, batch: int, steps: int, loss: float, uniform: float, filter_cap: int, deaths: float
) -> None:
    world = World(random.Random(seed), eta, batch, steps, filter_cap)
    for _ in range(10_000):
        world.announce()
        if world.flying and not world.learner.is_told:
            world.arrive(loss, uniform)
        world.hear()
        while world.learner.progress.step < steps and (step := world.learner.next_step()) is not None:
            world.train(step)
            world.announce()
            if world.rng.random() < 0.3:
                world.checkpoint()
        if world.learner.progress.step == steps:
            break
        if world.rng.random() < deaths:
            world.die()
    else:
        raise AssertionError("it waits for what nobody makes")
    trained = [ordinal for done in world.told for ordinal in done.trained]
    voided = [ordinal for done in world.told for ordinal in done.voided]
    assert len(trained) == steps * batch == len(set(trained))
    assert not {*trained} & {*voided} and len(voided) == len(set(voided))
    left = world.learner.open(world.published)
    assert not {*left} & {*trained, *voided}
    known = [record[0] for record in world.journal if record[1] is None]
    assert {*range(world.published)} == {*trained, *voided, *left, *known}, "published = trained + void + open"


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), eta=st.integers(1, 4), batch=st.integers(1, 6))
def test_what_has_come_is_taken_at_once_unless_the_bound_asks_for_an_older_group(
    seed: int, eta: int, batch: int
) -> None:
    """Before the first step every group of the window has η more steps to come: the first B that come are taken."""
    rng = random.Random(seed)
    ordinals = rng.sample(range((eta + 1) * batch), k=batch)
    assembler = arrived(ordinals, batch=batch, end=(eta + 1) * batch, due=eta)
    step = assembler.next_step()
    assert step is not None and list(step.groups) == sorted(ordinals)
