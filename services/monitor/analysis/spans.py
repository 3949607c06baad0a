"""What every replica did in a stretch of time, and what each step took of each service: from stamps alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.monitor.history.queries import Interval, Reader, reading

SPANS_IN_A_LANE = 400
"""Spans closer together than a lane's width divided by so many are drawn as one."""
NEWEST_GROUPS = 20_000
"""A timeline is made of so many of the newest groups at most."""


@dataclass(frozen=True)
class Lane:
    """One kind of work of one replica: spans (start, end) in seconds since the epoch, and the share that they cover."""

    service: str
    replica: str
    work: str  # generate, evaluate, score, update, publish, wait
    busy: float
    spans: list[tuple[float, float]]


@dataclass(frozen=True)
class Timeline:
    """A stretch of a run; `sentence` says which service the others wait for, empty where nothing is known."""

    start: float
    end: float
    lanes: list[Lane]
    sentence: str


def timeline(folder: Path, seconds: float, until: float | None) -> Timeline:
    """The `seconds` before `until`; None: before the last stamp of the run."""
    with reading(folder) as reader:
        end = until if until is not None else (reader.newest_stamp() if reader else 0.0)
        start = end - seconds
        if reader is None:
            return Timeline(start, end, [], "")
        spans = _spans(reader, start, end)
    lanes = [_lane(key, intervals, start, end) for key, intervals in sorted(spans.items(), key=_order)]
    return Timeline(start, end, lanes, _sentence(lanes))


_Spans = dict[tuple[str, str, str], list[Interval]]
_ORDER = ("generate", "evaluate", "score", "update", "publish", "wait")


def _order(item: tuple[tuple[str, str, str], Any]) -> tuple[int, str]:
    (_, replica, work), _ = item
    return _ORDER.index(work), replica


def _spans(reader: Reader, start: float, end: float) -> _Spans:
    found: _Spans = {}

    def add(service: str, replica: str, work: str, begin: float, stop: float) -> None:
        if stop > start and begin < end:
            found.setdefault((service, replica, work), []).append(Interval(max(begin, start), min(stop, end)))

    for group in reader.newest_times(start, NEWEST_GROUPS):
        work = "generate" if group["kind"] == "train" else "evaluate"
        add("rollout", group["replica"], work, group["started_at"], group["finished_at"])
        add("reward", group["scorer"], "score", group["score_started_at"], group["score_finished_at"])
    for step in reader.steps_since(start):
        done, timing = step["finished_at"], step["timing"]
        published = done - timing.get("store_s", 0.0)
        began = published - timing.get("step_s", 0.0)
        add("learner", "learner", "publish", published, done)
        add("learner", "learner", "update", began, published)
        waits = began - timing.get("wait_s", 0.0) - timing.get("overlap_s", 0.0)
        for portion in step["portions"]:
            add("learner", "learner", "wait", waits, portion["started_at"])
            add("learner", "learner", "update", portion["started_at"], portion["finished_at"])
            waits = portion["finished_at"]
        add("learner", "learner", "wait", waits, began)
    return found


def _lane(key: tuple[str, str, str], intervals: list[Interval], start: float, end: float) -> Lane:
    drawn = merged(intervals, gap=(end - start) / SPANS_IN_A_LANE)
    return Lane(*key, _seconds(merged(intervals)) / (end - start), [(one.start, one.end) for one in drawn])


def merged(intervals: Iterable[Interval], gap: float = 0.0) -> list[Interval]:
    """Intervals as disjoint ones in order; two with at most `gap` seconds between them are one, empty ones are none."""
    union: list[Interval] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if union and start <= union[-1].end + gap:
            union[-1] = Interval(union[-1].start, max(union[-1].end, end))
        else:
            union.append(Interval(start, end))
    return union


def _seconds(intervals: Iterable[Interval]) -> float:
    return sum(one.end - one.start for one in intervals)


_NAMES = {"generate": "generation", "evaluate": "evaluation", "score": "scoring", "update": "the update"}


def _sentence(lanes: Sequence[Lane]) -> str:
    """Which work the learner waits for, or that it is the learner that the others wait for."""
    busy = {work: max((lane.busy for lane in lanes if lane.work == work), default=0.0) for work in _NAMES}
    if not any(busy.values()):
        return ""
    work = max(busy, key=lambda name: busy[name])
    waits = max((lane.busy for lane in lanes if lane.work == "wait"), default=0.0)
    rest = f"; the learner waits {waits:.0%} of it" if work != "update" else ""
    return f"{_NAMES[work]} is busy {busy[work]:.0%} of the time, more than anything else{rest}"


@dataclass(frozen=True)
class StepCost:
    """What one step took. Seconds of generation and scoring are summed over replicas, each counted once at a time.

    `wall_s` runs from the end of the step before (null for the first one). `gpu_hours` = wall × `monitor.gpus`,
    `money` = `gpu_hours` × `monitor.gpu_hour_price`; null where they are 0.
    """

    step: int
    groups: int
    tokens: float
    wall_s: float | None
    generation_s: float
    scoring_s: float
    update_s: float
    publish_s: float
    wait_s: float
    gpu_hours: float | None
    money: float | None


def step_costs(folder: Path, limit: int, *, gpus: float, price: float) -> list[StepCost]:
    """The newest `limit` steps, newest first."""
    with reading(folder) as reader:
        if reader is None:
            return []
        first = max(0, reader.last_step() - limit)
        steps = reader.steps(after=max(0, first - 1))
        ends = {step["step"]: step["finished_at"] for step in steps}
        costs = []
        for step in steps:
            if step["step"] <= first:
                continue
            before = ends.get(step["step"] - 1)
            wall = step["finished_at"] - before if before is not None else None
            costs.append(_cost(reader, step, wall, gpus=gpus, price=price))
    return costs[::-1]


def _cost(reader: Reader, step: dict[str, Any], wall: float | None, *, gpus: float, price: float) -> StepCost:
    generated: dict[str, list[Interval]] = {}
    scored: dict[str, list[Interval]] = {}
    for group in reader.times_of_step(step["step"]):
        generated.setdefault(group["replica"], []).append(Interval(group["started_at"], group["finished_at"]))
        scored.setdefault(group["scorer"], []).append(Interval(group["score_started_at"], group["score_finished_at"]))
    hours = wall * gpus / 3600 if wall is not None and gpus > 0 else None
    timing = step["timing"]
    return StepCost(
        step=step["step"],
        groups=step["groups"],
        tokens=step["metrics"].get("tokens", 0.0),
        wall_s=wall,
        generation_s=_busy(generated.values()),
        scoring_s=_busy(scored.values()),
        update_s=timing.get("step_s", 0.0) + timing.get("overlap_s", 0.0),
        publish_s=timing.get("store_s", 0.0),
        wait_s=timing.get("wait_s", 0.0),
        gpu_hours=hours,
        money=hours * price if hours is not None and price > 0 else None,
    )


def _busy(replicas: Iterable[list[Interval]]) -> float:
    return sum(_seconds(merged(intervals)) for intervals in replicas)
