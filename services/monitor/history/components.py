"""What an audit of rewards looks at, of the groups of one source in one step: its parts, and answers that are alike.

With the reward of completion i in a group r_i = Σ_k w_k·x_ki over the parts k (accuracy and format; of a composite also
its members, which make up accuracy), Var(r) = Σ_k Cov(w_k·x_k, r): the share of a part is Σ Cov(w_k·x_k, r) / Σ Var(r),
summed over groups. It says what decides which completions are good ones, since advantages are made of the differences.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from services.monitor.history.facts import Answer, GroupFacts

AUDIT: Final = "audit"
"""The part of a reward that holds the independent verifier's accuracy (`services.reward.audit`)."""
Ratio = tuple[float, float]
"""Numerator and denominator; ratios of several groups are added part by part."""


def components(judged: Sequence[Answer], weights: dict[str, float]) -> dict[str, Ratio]:
    """Part → its covariance with the reward, and the variance of the reward, in one group; empty without variance."""
    if len(judged) < 2 or not weights:
        return {}
    rewards = _centred([answer.final or 0.0 for answer in judged])
    variance = sum(value * value for value in rewards)
    if variance <= 1e-12:
        return {}
    return {
        name: (sum(map(_product, _centred([weight * _part(answer, name) for answer in judged]), rewards)), variance)
        for name, weight in weights.items()
    }


def alike(groups: Sequence[GroupFacts]) -> dict[str, Ratio]:
    """Pairs from different groups with equal answers, and with equal truths, each among all such pairs.

    Both have the expectation of one pair, however many there are: where every answer is right they are equal.
    """
    own = [Counter(answer.said for answer in group.answers) for group in groups]
    same, pairs = _pairs(own)
    same_truths, truths = _pairs([Counter((group.truth,)) for group in groups])
    found = {"answers_alike": (same, pairs), "truths_alike": (same_truths, truths)}
    return {name: ratio for name, ratio in found.items() if ratio[1] > 0}


def _pairs(groups: Sequence[Counter[int]]) -> Ratio:
    """Equal pairs and all pairs that lie in two groups."""
    everything: Counter[int] = Counter()
    for group in groups:
        everything.update(group)
    equal = _squares(everything) - sum(map(_squares, groups))
    total = everything.total() ** 2 - sum(group.total() ** 2 for group in groups)
    return equal / 2, total / 2


def _squares(counts: Counter[int]) -> int:
    return sum(count * count for count in counts.values())


def _part(answer: Answer, name: str) -> float:
    if name in ("accuracy", "format"):
        return (answer.accuracy if name == "accuracy" else answer.format) or 0.0
    return answer.parts.get(f"{name}.accuracy", 0.0)


def _centred(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    return [value - mean for value in values]


def _product(one: float, other: float) -> float:
    return one * other
