"""Where a run's wall time went, from the time stamps that groups and steps carry."""

import heapq
from collections.abc import Iterable, Iterator
from functools import partial

from services.monitor.history.queries import Interval, Reader

LEARNER_TIMES = {"learner_wait_s": "wait_s", "learner_step_s": "step_s", "weight_sync_s": "store_s"}
"""Sums of the report and the times of a step (`StepDone.timing`) that they add up."""


def covered(intervals: Iterable[Interval]) -> list[Interval]:
    """The union of intervals in order of start, as disjoint ones in order; empty ones are left out."""
    union: list[Interval] = []
    for start, end in intervals:
        if end <= start:
            continue
        if union and start <= union[-1].end:
            union[-1] = Interval(union[-1].start, max(union[-1].end, end))
        else:
            union.append(Interval(start, end))
    return union


def length(intervals: Iterable[Interval]) -> float:
    """Seconds that disjoint intervals cover."""
    return sum(end - start for start, end in intervals)


def time_sums(reader: Reader) -> dict[str, float]:
    """The report's sums in seconds; `rollout_wait_s` is the mean over replicas of the time without a group in hand."""
    steps = reader.steps()
    sums = {name: sum(step["timing"].get(key, 0.0) for step in steps) for name, key in LEARNER_TIMES.items()}
    idle = []
    for _, intervals in reader.generation_times_by_replica():
        busy = covered(intervals)
        idle.append(busy[-1].end - busy[0].start - length(busy) if busy else 0.0)
    sums["rollout_wait_s"] = sum(idle) / len(idle) if idle else 0.0
    return sums


def time_shares(reader: Reader) -> dict[str, float]:
    """Shares of the training's wall time: `work` (generation or update), `scoring` outside of it, `other`.

    The wall time runs from the first group's generation to the last step's end, less the evaluations in between. The
    service's own cost, `overhead` = 1 − `work`, holds scoring, transport, codec, bookkeeping and waiting for messages.
    """
    steps = [step for step in reader.steps() if step["finished_at"]]
    first = next(reader.generation_times("train"), None)
    if not steps or first is None:
        return {}
    begin, end = first.start, max(step["finished_at"] for step in steps)
    clip = partial(_clipped, begin=begin, end=end)
    updates = covered(
        sorted(Interval(step["finished_at"] - step["timing"].get("step_s", 0.0), step["finished_at"]) for step in steps)
    )
    generation = covered(clip(reader.generation_times("train")))
    work = covered(heapq.merge(generation, clip(updates)))
    scoring = covered(heapq.merge(work, clip(reader.scoring_times("train"))))
    evaluating = covered(heapq.merge(scoring, clip(reader.generation_times("eval"))))
    wall = end - begin - (length(evaluating) - length(scoring))
    if wall <= 0:
        return {}
    shares = {"work": length(work) / wall, "scoring": (length(scoring) - length(work)) / wall}
    shares["overhead"] = 1.0 - shares["work"]
    shares["other"] = shares["overhead"] - shares["scoring"]
    shares["generation"] = length(generation) / wall
    shares["update"] = length(updates) / wall
    return shares


def _clipped(intervals: Iterable[Interval], *, begin: float, end: float) -> Iterator[Interval]:
    return (Interval(max(start, begin), min(stop, end)) for start, stop in intervals)
