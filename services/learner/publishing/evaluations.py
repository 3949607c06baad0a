"""Which versions are to be evaluated, which evaluations are open, and when one is complete."""

from dataclasses import dataclass, field
from typing import NamedTuple


def is_due(step: int, total_steps: int, every: int) -> bool:
    """Whether the weights after `step` are evaluated: the first, the last, and every `every`-th (0: none between)."""
    return step in (0, total_steps) or (every > 0 and step % every == 0)


class Complete(NamedTuple):
    """An evaluation whose groups have all arrived: of which weights, how many groups, how many of them void."""

    version: int
    incarnation: int
    total: int
    void: int


@dataclass
class _Evaluation:
    incarnation: int = 0
    total: int | None = None
    arrived: dict[int, bool] = field(default_factory=dict)  # ordinal -> is void; empty once it is done
    done: bool = False


@dataclass
class Evaluations:
    """Evaluations by version: how many groups they have, which have arrived, and whether they are done."""

    _by_version: dict[int, _Evaluation] = field(default_factory=dict)

    def announce(self, version: int, incarnation: int | None = None) -> None:
        """There is an evaluation of `version`; `incarnation` of its weights, where it is known."""
        one = self._by_version.setdefault(version, _Evaluation())
        if incarnation is not None:
            one.incarnation = incarnation

    def is_announced(self, version: int) -> bool:
        return version in self._by_version

    def end(self, version: int, total: int) -> None:
        """Data has published all `total` groups of `version`."""
        self.announce(version)
        self._by_version[version].total = total

    def arrive(self, version: int, ordinal: int, *, void: bool) -> None:
        """A record of the journal; the first one of an ordinal counts, and none of an evaluation that is done."""
        self.announce(version)
        if not self._by_version[version].done:
            self._by_version[version].arrived.setdefault(ordinal, void)

    def finish(self, version: int) -> None:
        """The evaluation is announced as done; what of it had arrived is forgotten."""
        self.announce(version)
        self._by_version[version].done = True
        self._by_version[version].arrived.clear()

    def complete(self) -> list[Complete]:
        """Those that are not done yet, though all their groups have arrived."""
        return [
            Complete(version, one.incarnation, one.total, sum(one.arrived.values()))
            for version, one in sorted(self._by_version.items())
            if not one.done and one.total is not None and len(one.arrived) >= one.total
        ]

    @property
    def held(self) -> int:
        """Groups of evaluations that are not done."""
        return sum(len(one.arrived) for one in self._by_version.values())

    @property
    def open(self) -> set[int]:
        """Versions whose evaluation is announced and not done."""
        return {version for version, one in self._by_version.items() if not one.done}
