"""Two seeds of `make chaos`, with short outages: nothing lost, nothing doubled, nothing stands still."""

from pathlib import Path

import pytest

from tests.chaos.play import play, reference
from tests.chaos.schedule import STEPS, draw
from tests.chaos.system import running

pytestmark = [pytest.mark.loop, pytest.mark.nats, pytest.mark.redis, pytest.mark.timeout(900)]
SEEDS = (0, 3)
"""On-policy, one job each: their final weights must be those of an undisturbed run, bit for bit."""


async def test_whatever_dies_the_sums_agree_and_the_weights_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        bits = await reference(system, STEPS)
        for seed in SEEDS:
            schedule = draw(seed, quick=True)
            assert (schedule.jobs, schedule.is_comparable) == (1, True)
            outcome = await play(system, schedule, bits)
            assert not outcome.broken, outcome.as_line()
            assert (len(outcome.done), outcome.compared) == (8, 1)
