"""Which rank computes what: the same answer on every rank, from the groups alone.

ZeRO's collectives must match: every rank makes equally many forward and backward passes. So each gets equally many
micro-batches, balanced by what they cost; a rank that has too little to cut gets fillers, whose loss counts nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.learner.attention.batch import Part, Ready, micro_batches, parts_of

MicroBatch = list[Part]


@dataclass(frozen=True)
class Cost:
    """FLOPs of a part: so many a token (all matrices), so many a pair of query and key (attention); both forward."""

    per_token: float
    per_pair: float

    @classmethod
    def of(cls, text_config: Any) -> "Cost":
        """Of a decoder with gated MLPs: 2 FLOPs a weight and token, 4 a pair, layer and channel."""
        hidden, layers = text_config.hidden_size, text_config.num_hidden_layers
        weights = layers * hidden * (4 * hidden + 3 * text_config.intermediate_size)
        return cls(2.0 * weights, 4.0 * layers * hidden)

    def __call__(self, part: Part) -> float:
        prompt = len(part.group.prompt_ids)
        lengths = [len(row.token_ids) for row in part.responses]
        pairs = prompt * prompt / 2 + sum(length * (prompt + length / 2) for length in lengths)
        return self.per_token * (prompt + sum(lengths)) + self.per_pair * pairs


def share(
    groups: Sequence[Ready], ranks: int, tokens_per_batch: int, cost: Callable[[Part], float]
) -> list[list[MicroBatch]]:
    """Micro-batches by rank, equally many for each, every response of `groups` in exactly one of them.

    The costliest part goes to the rank that has least (Graham 1969: at most 4/3 of the best balance). One rank alone
    gets `micro_batches`.
    """
    parts = parts_of(groups, tokens_per_batch)
    loads = [0.0] * ranks
    shares: list[list[Part]] = [[] for _ in range(ranks)]
    for part in sorted(parts, key=lambda part: (-cost(part), part.group.ordinal, part.responses[0].index)):
        rank = loads.index(min(loads))
        shares[rank].append(part)
        loads[rank] += cost(part)
    batches = [micro_batches(own, tokens_per_batch) for own in shares]
    count = max(map(len, batches))
    filler = _filler(min(parts, key=cost))
    return [_as_many(own, count, filler) for own in batches]


def _as_many(batches: list[MicroBatch], count: int, filler: Part) -> list[MicroBatch]:
    """Cut micro-batches in two, the fullest first, until there are `count`; then add fillers."""
    batches = list(batches)
    while len(batches) < count:
        fullest = max(range(len(batches)), key=lambda index: len(batches[index]), default=None)
        if fullest is None or len(batches[fullest]) < 2:
            return batches + [[filler]] * (count - len(batches))
        whole = batches[fullest]
        batches[fullest : fullest + 1] = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    return batches


def _filler(part: Part) -> Part:
    return replace(part, responses=part.responses[:1], is_filler=True)
