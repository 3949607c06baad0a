"""From the facts of groups to the points of the curves: one value a name and a set of groups.

A mean over nothing has no point (V-Triune writes NaN for lengths and 0 for ratios). Names, units and V-Triune's own
names are declared in `services.monitor.values.catalog`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress

import numpy as np

from services.monitor.values.components import AUDIT, add_alike, add_components
from services.monitor.values.facts import Facts
from services.monitor.values.tally import Column, Tally
from services.monitor.values.where import Where

SAME_REWARD = 1e-6
"""Rewards of a group that differ by less carry no gradient (V-Triune's epsilon in the group normalisation)."""


def values_by_set(facts: Facts) -> dict[Where, dict[str, float]]:
    """Every value of every set that the groups belong to."""
    if not facts.sources:
        return {}
    tally = Tally([Where(*place) for place in zip(facts.sources, facts.tasks, strict=True)], facts.sizes)
    _add_groups(tally, facts)
    _add_answers(tally, facts)
    _add_reflection(tally, facts)
    _add_parts(tally, facts)
    _add_spread(tally, facts)
    add_components(tally, facts)
    add_alike(tally, facts)
    return tally.values()


def error_rates(facts: Facts) -> dict[str, float]:
    """Share of completions without a verdict, by verifier."""
    of = [verifier for verifier, size in zip(facts.verifiers, facts.sizes.tolist(), strict=True) for _ in range(size)]
    failed = Counter(compress(of, ~facts.judged))
    return {verifier: failed[verifier] / count for verifier, count in Counter(of).items()}


def _add_groups(tally: Tally, facts: Facts) -> None:
    tally.total("groups", tally.by_cell(np.ones(len(facts.sources))))
    tally.groups("prompt_length", facts.prompt_lengths)
    tally.groups("wait/queue", facts.queue_s)
    tally.groups("wait/generate", facts.generate_s)
    tally.groups("wait/transit", facts.transit_s)
    tally.groups("wait/score", facts.score_s)
    if not np.isnan(facts.staleness).any():
        tally.groups("staleness", facts.staleness)
        tally.maximum("staleness_max", facts.staleness)


def _add_answers(tally: Tally, facts: Facts) -> None:
    everyone, judged = np.ones(len(facts.judged), np.bool_), facts.judged
    tally.answers("response_length", facts.lengths, everyone)
    tally.answers("truncation", facts.cut, everyone)
    tally.answers("error_rate", ~judged, everyone)
    tally.answers("reward", facts.final, judged)
    tally.answers("accuracy", facts.accuracy, judged)
    tally.answers("format", facts.format, judged)
    tally.answers("correct", facts.correct, judged)


def _add_reflection(tally: Tally, facts: Facts) -> None:
    """What right and wrong answers are like, and how right those are that look back."""
    for word, (answers, counts) in _by_name(facts.words).items():
        tally.total(f"reflection_words/{word}", tally.by_cell(counts, tally.group_of[answers]))
    judged = facts.judged
    reflects = np.array([bool(words) for words in facts.words], np.bool_)
    tally.answers("reflection", reflects, judged)
    for kind, some in (("correct", facts.correct), ("wrong", judged & ~facts.correct)):
        tally.answers(f"response_length_{kind}", facts.lengths, some)
        tally.answers(f"truncation_{kind}", facts.cut, some)
        tally.answers(f"reflection_{kind}", reflects, some)
    for kind, some in (("with", judged & reflects), ("without", judged & ~reflects)):
        tally.answers(f"correct_{kind}_reflection", facts.correct, some)


def _add_parts(tally: Tally, facts: Facts) -> None:
    by_name = _by_name(facts.parts)
    for name, (answers, values) in by_name.items():
        groups = tally.group_of[answers]
        tally.ratio(f"part/{name}", tally.by_cell(values, groups), tally.by_cell(np.ones(len(values)), groups))
    if AUDIT in by_name:
        answers, values = by_name[AUDIT]
        groups, counts = tally.group_of[answers], np.ones(len(values))
        gaps = facts.accuracy[answers] - values
        tally.ratio("audit/accuracy", tally.by_cell(values, groups), tally.by_cell(counts, groups))
        tally.ratio("audit/gap", tally.by_cell(gaps, groups), tally.by_cell(counts, groups))


def _by_name(mappings: Sequence[Mapping[str, float]]) -> dict[str, tuple[list[int], Column]]:
    """Name → the places of those that have it, and their values."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for place, mapping in enumerate(mappings):
        for name, value in mapping.items():
            places, values = found.setdefault(name, ([], []))
            places.append(place)
            values.append(value)
    return {name: (places, np.array(values, np.float64)) for name, (places, values) in found.items()}


def _add_spread(tally: Tally, facts: Facts) -> None:
    """How much a group's rewards differ: without a difference a group teaches nothing."""
    counts = tally.by_group(facts.judged)
    spread = counts >= 2
    centred = tally.centred(facts.final, facts.judged)
    deviations = np.sqrt(tally.by_group(centred * centred) / np.maximum(counts, 1))
    varies = spread & (_range(tally, facts.final) > SAME_REWARD)
    in_format = varies & (_range(tally, facts.accuracy) <= SAME_REWARD)
    tally.groups("reward_std", np.where(varies, deviations, 0.0), spread)
    tally.groups("zero_variance", spread & ~varies, spread)
    tally.groups("format_only", in_format, spread)


def _range(tally: Tally, values: Column) -> Column:
    """The highest less the lowest value of each group (N,), NaN aside; NaN where there is none."""
    highest, lowest = np.full((2, tally.num_groups), np.nan)
    np.fmax.at(highest, tally.group_of, values)
    np.fmin.at(lowest, tally.group_of, values)
    return highest - lowest
