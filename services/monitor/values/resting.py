"""Which of the values that are looked at every few seconds are worth a point: most of them rest for minutes."""

import math
from collections.abc import Mapping


class Resting:
    """The last points of such values; a value is due when it has changed, and after `rest_s` all the same."""

    def __init__(self, rest_s: float) -> None:
        self._rest_s = rest_s
        self._values: dict[str, float] = {}
        self._noted_at: dict[str, float] = {}  # seconds of a clock that never goes back

    def due(self, values: Mapping[str, float], now: float) -> dict[str, float]:
        """Those of `values` that are worth a point."""
        return {
            name: value
            for name, value in values.items()
            if value != self._values.get(name) or now - self._noted_at.get(name, -math.inf) >= self._rest_s
        }

    def noted(self, values: Mapping[str, float], now: float) -> None:
        """These have their points."""
        self._values.update(values)
        self._noted_at.update(dict.fromkeys(values, now))
