"""The ledger in memory, for tests and for the whole loop in one process."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from shared.ledger.port import LOADED_S, LedgerView, Window


@dataclass
class _Job:
    window: Window | None = None
    loaded: dict[str, tuple[int, float]] = field(default_factory=dict)  # replica -> version, expiry
    in_flight: dict[int, float] = field(default_factory=dict)  # ordinal -> expiry
    staleness: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))


class MemoryLedger:
    """`shared.ledger.port.Ledger` in one process; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._jobs: defaultdict[str, _Job] = defaultdict(_Job)

    async def write_window(self, job: str, window: Window) -> None:
        self._jobs[job].window = window

    async def window(self, job: str) -> Window | None:
        return self._jobs[job].window

    async def loaded(self, job: str, replica: str, version: int) -> None:
        self._jobs[job].loaded[replica] = (version, self._clock() + LOADED_S)

    async def groups(self, job: str, started: Collection[int], ended: Collection[int], deadline_s: float) -> None:
        in_flight = self._jobs[job].in_flight
        in_flight.update(dict.fromkeys(started, self._clock() + deadline_s))
        for ordinal in ended:
            in_flight.pop(ordinal, None)

    async def trained(self, job: str, staleness: Mapping[str, Sequence[int]]) -> None:
        for source, values in staleness.items():
            if values:
                self._jobs[job].staleness[source].update(values)

    async def view(self, job: str) -> LedgerView:
        found, now = self._jobs[job], self._clock()
        return LedgerView(
            window=found.window,
            loaded={replica: version for replica, (version, expiry) in found.loaded.items() if expiry > now},
            in_flight=sum(expiry > now for expiry in found.in_flight.values()),
            staleness={source: dict(counts) for source, counts in found.staleness.items()},
        )

    async def forget(self, job: str) -> None:
        self._jobs.pop(job, None)

    async def close(self) -> None:
        return
