"""The staleness rule: numbers worked by hand, and the bound under random schedules."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.learner.checkpoints.progress import Progress
from services.learner.steps.assembler import Assembler, Lost
from shared.staleness import staleness, window_end


def test_on_policy_admits_exactly_the_next_step() -> None:
    assert window_end(cursor=64, version=2, total_steps=10, prompts_per_step=32, max_staleness=0, lost=0) == 96


def test_a_lost_group_admits_its_replacement() -> None:
    assert window_end(cursor=64, version=2, total_steps=10, prompts_per_step=32, max_staleness=0, lost=3) == 99


def test_the_window_never_reaches_past_the_last_step() -> None:
    assert window_end(cursor=256, version=8, total_steps=10, prompts_per_step=32, max_staleness=5, lost=0) == 320
    assert window_end(cursor=320, version=10, total_steps=10, prompts_per_step=32, max_staleness=5, lost=2) == 320


def test_negative_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="cursor -1"):
        window_end(cursor=-1, version=0, total_steps=1, prompts_per_step=1, max_staleness=0, lost=0)


def test_a_group_of_a_later_version_is_not_stale() -> None:
    assert staleness(trained_on=3, oldest_version=5) == 0
    assert staleness(trained_on=5, oldest_version=3) == 2


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    eta=st.integers(0, 4),
    batch=st.integers(1, 6),
    steps=st.integers(1, 12),
    loss=st.floats(0.0, 0.5),
    uniform=st.floats(0.0, 0.7),
    filter_cap=st.integers(0, 12),
)
def test_no_trained_group_is_ever_older_than_the_bound_and_the_run_finishes(
    seed: int, eta: int, batch: int, steps: int, loss: float, uniform: float, filter_cap: int
) -> None:
    """Groups arrive in any order, some are void, some uniform, each of the newest version that its replica has seen."""
    rng = random.Random(seed)
    assembler: Assembler[int] = Assembler(Progress(), batch, filter_cap)
    version, end, published, sequence = 0, 0, 0, 0
    flying: list[tuple[int, int]] = []  # (ordinal, version that admitted it)
    trained: list[int] = []
    lost: set[int] = set()

    def widen() -> int:
        new = window_end(
            cursor=assembler.cursor,
            version=version,
            total_steps=steps,
            prompts_per_step=batch,
            max_staleness=eta,
            lost=assembler.lost(),
        )
        return max(end, new)

    while version < steps:
        end = widen()
        while published < end:
            flying.append((published, version))
            published += 1
        assert flying, "the learner waits for a group that nobody makes"
        ordinal, admitted = flying.pop(rng.randrange(len(flying)))
        sequence += 1
        assert assembler.is_new(ordinal, sequence)
        if rng.random() < loss:
            assembler.lose(ordinal, Lost("bad-sample"))
        else:
            flat = Lost("filtered") if rng.random() < uniform else None
            assembler.add(ordinal, rng.randint(admitted, version), uniform=flat)
        while version < steps and (step := assembler.next_step()) is not None:
            for group_ordinal, made_by in step.groups.items():
                assert staleness(version, made_by) <= eta
                trained.append(group_ordinal)
            lost |= step.lost.keys()
            assembler.consume(step)
            version += 1
    assert len(trained) == steps * batch
    assert trained == sorted(set(trained))
    given_up = {ordinal for ordinal in range(assembler.cursor, published) if ordinal not in assembler.open(published)}
    assert published == len(trained) + len(lost | given_up), "published = trained + void"
