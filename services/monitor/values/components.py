"""What an audit of rewards looks at, of the groups of one source in one step: its parts, and answers that are alike.

With the reward of completion i in a group r_i = Σ_k w_k·x_ki over the parts k (accuracy and format; of a composite also
its members, which make up accuracy), Var(r) = Σ_k Cov(w_k·x_k, r): the share of a part is Σ Cov(w_k·x_k, r) / Σ Var(r),
summed over groups. It says what decides which completions are good ones, since advantages are made of the differences.
"""

from typing import Final

import numpy as np

from services.monitor.values.facts import Facts
from services.monitor.values.tally import Column, Tally

AUDIT: Final = "audit"
"""The part of a reward that holds the independent verifier's accuracy (`services.reward.audit`)."""
_NO_VARIANCE: Final = 1e-12


def add_components(tally: Tally, facts: Facts) -> None:
    """Part → its covariance with the reward over the variance of the reward, of groups whose rewards differ."""
    judged = facts.judged
    rewards = tally.centred(facts.final, judged)
    variances = tally.by_group(rewards * rewards)
    varies = (tally.by_group(judged) >= 2) & (variances > _NO_VARIANCE)
    for name in dict.fromkeys(name for weights in facts.weights for name in weights):
        weights = np.array([weights.get(name, np.nan) for weights in facts.weights])
        own = tally.centred(weights[tally.group_of] * _part(facts, name), judged)
        among = varies & ~np.isnan(weights)
        shares = np.where(among, tally.by_group(own * rewards), 0.0)
        tally.groups(f"component/{name}", shares, np.where(among, variances, 0.0))


def add_alike(tally: Tally, facts: Facts) -> None:
    """Pairs from different groups with equal answers, and with equal truths, each among all such pairs of a source.

    Both have the expectation of one pair, however many there are: where every answer is right they are equal.
    """
    for name, values, group_of in (
        ("answers_alike", facts.said, tally.group_of),
        ("truths_alike", facts.truths, np.arange(tally.num_groups)),
    ):
        tally.ratio(name, _pairs(tally, values, group_of), _pairs(tally, np.zeros_like(values), group_of))


def _pairs(tally: Tally, values: Column, group_of: Column) -> Column:
    """How many pairs of equal `values` lie in two groups of a cell (C,); `group_of`: the group of each value."""
    _, names = np.unique(values, return_inverse=True)
    in_cells = _squares(tally.cell_of[group_of], names, tally.num_cells)
    in_groups = _squares(group_of, names, tally.num_groups)
    return (in_cells - tally.by_cell(in_groups)) / 2


def _squares(place_of: Column, names: Column, count: int) -> Column:
    """Σ n² over the names of each of `count` places, where a name occurs n times."""
    many = int(names.max(initial=0)) + 1
    keys, counts = np.unique(place_of * many + names, return_counts=True)
    return np.bincount(keys // many, counts * counts, count)


def _part(facts: Facts, name: str) -> Column:
    """What each answer (A,) has of a part of its reward."""
    if name in ("accuracy", "format"):
        return facts.accuracy if name == "accuracy" else facts.format
    return np.array([parts.get(f"{name}.accuracy", 0.0) for parts in facts.parts], np.float64)
