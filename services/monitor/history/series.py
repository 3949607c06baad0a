"""From the facts of groups to the points of the curves: one value a name and a set of groups.

The sets are each source, each task and all groups together. A mean over nothing has no point (V-Triune writes NaN for
lengths and 0 for ratios). Names, units and V-Triune's own names are declared in `services.monitor.metrics`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from services.monitor.history.components import AUDIT, alike, components
from services.monitor.history.facts import Answer, GroupFacts

SAME_REWARD = 1e-6
"""Rewards of a group that differ by less carry no gradient (V-Triune's epsilon in the group normalisation)."""


class Where(NamedTuple):
    """The set of groups a value is of; empty strings: of all sources, of all tasks."""

    source: str = ""
    task: str = ""


ALL = Where()


class Placed(NamedTuple):
    """One group with what places it; `staleness` in versions, None for a held-out group."""

    source: str
    task: str
    facts: GroupFacts
    staleness: int | None = None


class Tally:
    """Means, totals and maxima by name, which can be merged."""

    def __init__(self) -> None:
        self._means: dict[str, tuple[float, float]] = {}
        self._totals: dict[str, float] = {}
        self._maxima: dict[str, float] = {}

    def mean(self, name: str, value: float, weight: float = 1) -> None:
        total, count = self._means.get(name, (0.0, 0))
        self._means[name] = (total + value, count + weight)

    def total(self, name: str, value: float) -> None:
        self._totals[name] = self._totals.get(name, 0.0) + value

    def maximum(self, name: str, value: float) -> None:
        self._maxima[name] = max(self._maxima.get(name, value), value)

    def merge(self, other: "Tally") -> None:
        for name, (total, count) in other._means.items():
            self.mean(name, total, count)
        for name, value in other._totals.items():
            self.total(name, value)
        for name, value in other._maxima.items():
            self.maximum(name, value)

    def values(self) -> dict[str, float]:
        means = {name: total / count for name, (total, count) in self._means.items()}
        return means | self._totals | self._maxima


def values_by_set(groups: Iterable[Placed]) -> dict[Where, dict[str, float]]:
    """Every value of every set that the groups belong to."""
    by_source: dict[Where, Tally] = {}
    facts: dict[Where, list[GroupFacts]] = {}
    for group in groups:
        where = Where(group.source, group.task)
        _tally_group(by_source.setdefault(where, Tally()), group)
        facts.setdefault(where, []).append(group.facts)
    for where, together in facts.items():
        for name, (same, pairs) in alike(together).items():
            by_source[where].mean(name, same, pairs)
    merged: dict[Where, Tally] = {}
    for where, tally in by_source.items():
        for wider in {Where(source=where.source), Where(task=where.task), ALL}:
            merged.setdefault(wider, Tally()).merge(tally)
    return {where: tally.values() for where, tally in merged.items()}


def error_rates(groups: Iterable[Placed]) -> dict[str, float]:
    """Share of completions without a verdict, by verifier."""
    counts: dict[str, tuple[int, int]] = {}
    for group in groups:
        errors, total = counts.get(group.facts.verifier, (0, 0))
        failed = sum(not answer.judged for answer in group.facts.answers)
        counts[group.facts.verifier] = errors + failed, total + len(group.facts.answers)
    return {verifier: errors / total for verifier, (errors, total) in counts.items() if total}


def _tally_group(tally: Tally, group: Placed) -> None:
    facts = group.facts
    tally.total("groups", 1)
    tally.mean("prompt_length", facts.prompt_length)
    for name, value in _waits(facts):
        tally.mean(name, value)
    if group.staleness is not None:
        tally.mean("staleness", group.staleness)
        tally.maximum("staleness_max", group.staleness)
    judged = [answer for answer in facts.answers if answer.final is not None]
    _tally_answers(tally, facts.answers, judged)
    _tally_spread(tally, judged)
    for name, (own, everything) in components(judged, facts.weights).items():
        tally.mean(f"component/{name}", own, everything)


def _waits(facts: GroupFacts) -> Iterator[tuple[str, float]]:
    yield "wait/queue", facts.queue_s
    yield "wait/generate", facts.generate_s
    yield "wait/transit", facts.transit_s
    yield "wait/score", facts.score_s


def _tally_answers(tally: Tally, answers: Sequence[Answer], judged: Sequence[Answer]) -> None:
    """Sums over a group's answers first: a group is eight or more of them."""
    tally.mean("response_length", sum(a.length for a in answers), len(answers))
    tally.mean("truncation", sum(a.truncated for a in answers), len(answers))
    tally.mean("error_rate", len(answers) - len(judged), len(answers))
    for answer in answers:
        for word, count in answer.words.items():
            tally.total(f"reflection_words/{word}", count)
    if not judged:
        return
    tally.mean("reward", sum(a.final or 0.0 for a in judged), len(judged))
    tally.mean("accuracy", sum(a.accuracy or 0.0 for a in judged), len(judged))
    tally.mean("format", sum(a.format or 0.0 for a in judged), len(judged))
    for answer in judged:
        for name, value in answer.parts.items():
            tally.mean(f"part/{name}", value)
        if AUDIT in answer.parts:
            tally.mean("audit/accuracy", answer.parts[AUDIT])
            tally.mean("audit/gap", (answer.accuracy or 0.0) - answer.parts[AUDIT])
    _tally_reflection(tally, judged)


def _tally_reflection(tally: Tally, judged: Sequence[Answer]) -> None:
    """What right and wrong answers are like, and how right those are that look back."""
    right = [a for a in judged if a.correct]
    tally.mean("correct", len(right), len(judged))
    tally.mean("reflection", sum(bool(a.words) for a in judged), len(judged))
    for kind, some in (("correct", right), ("wrong", [a for a in judged if not a.correct])):
        if some:
            tally.mean(f"response_length_{kind}", sum(a.length for a in some), len(some))
            tally.mean(f"truncation_{kind}", sum(a.truncated for a in some), len(some))
            tally.mean(f"reflection_{kind}", sum(bool(a.words) for a in some), len(some))
    for kind, some in (("with", [a for a in judged if a.words]), ("without", [a for a in judged if not a.words])):
        if some:
            tally.mean(f"correct_{kind}_reflection", sum(a.correct for a in some), len(some))


def _tally_spread(tally: Tally, judged: Sequence[Answer]) -> None:
    """How much a group's rewards differ: without a difference a group teaches nothing."""
    if len(judged) < 2:
        return
    rewards = [answer.final or 0.0 for answer in judged]
    accuracies = [answer.accuracy or 0.0 for answer in judged]
    varies = max(rewards) - min(rewards) > SAME_REWARD
    tally.mean("reward_std", _deviation(rewards) if varies else 0.0)
    tally.mean("zero_variance", not varies)
    tally.mean("format_only", varies and max(accuracies) - min(accuracies) <= SAME_REWARD)


def _deviation(values: list[float]) -> float:
    """Population standard deviation; `statistics.pstdev` computes in fractions, a hundred times slower."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
