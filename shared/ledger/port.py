"""The ledger of staleness: what Redis shows of a job's weights and window; a view that the learner can rewrite.

The truth is the last `WeightsPublished` event. A missing key means unknown, so the gate is closed; it is never 0.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

LOADED_S = 30.0
"""The entry of a replica that is silent for so long expires."""


@dataclass(frozen=True)
class Window:
    """The newest weights and what they admit: ordinals from `cursor` up to, not including, `end`."""

    version: int
    cursor: int
    end: int
    max_staleness: int


@dataclass(frozen=True)
class LedgerView:
    """All that the ledger knows of a job, for the monitor."""

    window: Window | None
    loaded: Mapping[str, int] = field(default_factory=dict)  # replica -> version
    in_flight: int = 0
    staleness: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # source -> staleness -> trained groups


class Ledger(Protocol):
    """Raises Unavailable when the server does not answer within its limit (2 s a call)."""

    async def write_window(self, job: str, window: Window) -> None:
        """The learner alone writes it."""
        ...

    async def window(self, job: str) -> Window | None:
        """None: unknown, the gate is closed."""
        ...

    async def loaded(self, job: str, replica: str, version: int) -> None:
        """`replica` runs `version` now (told again at least every `LOADED_S`, else the entry expires)."""
        ...

    async def groups(self, job: str, started: Collection[int], ended: Collection[int], deadline_s: float) -> None:
        """These groups are being generated, those are not any more; no group is in both.

        An entry expires after `deadline_s`, so a dead replica leaks nothing.
        """
        ...

    async def trained(self, job: str, staleness: Mapping[str, Sequence[int]]) -> None:
        """Count the trained groups of each source by their staleness."""
        ...

    async def view(self, job: str) -> LedgerView: ...
    async def forget(self, job: str) -> None: ...
    async def close(self) -> None: ...
