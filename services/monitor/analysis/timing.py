"""Where a run's wall time went, from the time stamps that groups and steps carry."""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence

from services.monitor.history.queries import Interval, Reader
from services.monitor.history.totals import Total

LEARNER_TIMES = {
    "learner_wait_s": ("wait_s",),
    "learner_step_s": ("step_s", "overlap_s"),
    "weight_sync_s": ("store_s",),
}
"""Sums of the report and the times of a step (`StepDone.timing`) that they add up."""


PACE_STEPS = 20
"""So many of the newest steps say how fast a run is now."""


def pace_s(ends: Sequence[float]) -> float | None:
    """Seconds from one step's end to the next, on average, evaluations in between too; None of fewer than two."""
    return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else None


class Union:
    """What intervals cover together, given in order of their starts; nothing of them is kept."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.begin, self.end = math.inf, -math.inf

    def add(self, interval: Interval) -> None:
        start = max(interval.start, self.end)
        if interval.end > start:
            self.begin = min(self.begin, interval.start)
            self.seconds += interval.end - start
            self.end = interval.end


def time_sums(reader: Reader) -> dict[str, float]:
    """The report's sums in seconds; `rollout_wait_s` is the mean over replicas of the time without a group in hand."""
    totals = reader.totals()
    sums = {
        name: sum(totals.get(f"timing/{key}", Total()).total for key in keys) for name, keys in LEARNER_TIMES.items()
    }
    idle = []
    for _, intervals in reader.generation_times_by_replica():
        busy = Union()
        for interval in intervals:
            busy.add(interval)
        idle.append(busy.end - busy.begin - busy.seconds if busy.seconds else 0.0)
    sums["rollout_wait_s"] = sum(idle) / len(idle) if idle else 0.0
    return sums


def time_shares(reader: Reader) -> dict[str, float]:
    """Shares of the training's wall time: `work` (generation or update), `scoring` outside of it, `other`.

    The wall time runs from the first group's generation to the last step's end, less the evaluations in between. The
    service's own cost, `overhead` = 1 − `work`, holds scoring, transport, codec, bookkeeping and waiting for messages.
    """
    end, first = reader.last_step_end(), next(reader.generation_times("train"), None)
    if not end or first is None:
        return {}
    begin = first.start
    times = {
        "generation": reader.generation_times("train"),
        "update": reader.update_times(),
        "scoring": reader.scoring_times("train"),
        "evaluation": reader.generation_times("eval"),
    }
    covered = _covered(times, begin, end)
    wall = end - begin - (covered["with evaluation"] - covered["with scoring"])
    if wall <= 0:
        return {}
    shares = {
        "work": covered["work"] / wall,
        "scoring": (covered["with scoring"] - covered["work"]) / wall,
    }
    shares["overhead"] = 1.0 - shares["work"]
    shares["other"] = shares["overhead"] - shares["scoring"]
    shares["generation"] = covered["generation"] / wall
    shares["update"] = covered["update"] / wall
    return shares


_UNIONS = {
    "generation": {"generation"},
    "update": {"update"},
    "work": {"generation", "update"},
    "with scoring": {"generation", "update", "scoring"},
    "with evaluation": {"generation", "update", "scoring", "evaluation"},
}
"""What is added up, and of which times."""


def _covered(times: Mapping[str, Iterator[Interval]], begin: float, end: float) -> dict[str, float]:
    """Seconds between `begin` and `end` that each of `_UNIONS` covers, in one pass: a run may have a million groups."""
    unions = {name: Union() for name in _UNIONS}
    for interval, kind in heapq.merge(*(_named(kind, intervals) for kind, intervals in times.items())):
        inside = Interval(max(interval.start, begin), min(interval.end, end))
        for name, kinds in _UNIONS.items():
            if kind in kinds:
                unions[name].add(inside)
    return {name: union.seconds for name, union in unions.items()}


def _named(kind: str, intervals: Iterator[Interval]) -> Iterator[tuple[Interval, str]]:
    return ((interval, kind) for interval in intervals)
