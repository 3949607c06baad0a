"""The weathers that flow tests are run under: faults of the bus that may change nothing of what comes of a job.

A test module with `weather = under("lost acks", …)` runs each of its tests in calm weather and under each of those;
what builds a service's ports there passes its bus through `through_weather`. The test's own handle stays calm.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from shared.bus.faulty import Faults, FaultyBus
from shared.bus.port import Bus

WEATHERS: Mapping[str, Mapping[str, Any]] = {
    "slow": {"latency_s": 0.004},
    "empty answers": {"empty_fetches": 0.3},
    "lost acks": {"lost_acks": 0.3},
    "sent again": {"late_answers": 0.3},
    "handed back": {"hand_backs": 6},
    "stored twice": {"late_answers": 0.3, "ids_forgotten": True},
}

_now: Faults | None = None


def under(*names: str) -> Callable[..., Iterator[str]]:
    """The fixture that a test module calls `weather`."""

    @pytest.fixture(autouse=True, params=["calm", *names])
    def weather(request: pytest.FixtureRequest) -> Iterator[str]:
        global _now
        name = str(request.param)
        _now = None if name == "calm" else Faults(seed=1, **WEATHERS[name])
        yield name
        _now = None

    return weather


def through_weather(bus: Bus) -> Bus:
    """A service's handle as the weather of this test makes it."""
    return bus if _now is None else FaultyBus(bus, _now)
