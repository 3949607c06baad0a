"""Where a run's wall time went, from the time stamps that groups and steps carry."""

from collections.abc import Iterable

from services.monitor.queries import Interval, Reader

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
    for intervals in reader.generation_times_by_replica().values():
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
    generation = reader.generation_times("train")
    if not steps or not generation:
        return {}
    updates = [Interval(s["finished_at"] - s["timing"].get("step_s", 0.0), s["finished_at"]) for s in steps]
    begin, end = generation[0].start, max(step["finished_at"] for step in steps)
    work = covered(sorted(_clipped([*generation, *updates], begin, end)))
    scoring = covered(sorted(_clipped([*work, *reader.scoring_times("train")], begin, end)))
    evaluating = covered(sorted(_clipped([*scoring, *reader.generation_times("eval")], begin, end)))
    wall = end - begin - (length(evaluating) - length(scoring))
    if wall <= 0:
        return {}
    shares = {"work": length(work) / wall, "scoring": (length(scoring) - length(work)) / wall}
    shares["overhead"] = 1.0 - shares["work"]
    shares["other"] = shares["overhead"] - shares["scoring"]
    shares["generation"] = length(covered(generation)) / wall
    shares["update"] = length(covered(sorted(updates))) / wall
    return shares


def _clipped(intervals: Iterable[Interval], begin: float, end: float) -> list[Interval]:
    return [Interval(max(start, begin), min(stop, end)) for start, stop in intervals]
