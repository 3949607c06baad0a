from dataclasses import dataclass

import pytest

from services.learner.attention.batch import Part, micro_batches, parts_of
from services.learner.engines.share import Cost, share


@pytest.fixture(scope="module")
def ready(make_engine, make_group):
    engine = make_engine()

    def make(ordinal, **shape):
        return engine.ingest(*make_group(ordinal, **shape))

    return make


@dataclass
class Text:
    hidden_size: int = 10
    num_hidden_layers: int = 2
    intermediate_size: int = 20


def tokens(part: Part) -> float:
    return part.num_tokens


def responses(shares):
    return sorted(
        (part.group.ordinal, row.index)
        for batches in shares
        for parts in batches
        for part in parts
        if not part.is_filler
        for row in part.responses
    )


def test_a_part_costs_two_flops_a_weight_and_token_and_four_a_pair_layer_and_channel(ready):
    # Weights: 2 layers of 4 x 10 x 10 and 3 x 10 x 20, 2000 in all. Prompt: 5 text tokens; responses of 2 and 4.
    cost = Cost.of(Text())
    (part,) = parts_of([ready(0, sizes=[], text=5, lengths=[2, 4])], 100)
    pairs = 5 * 5 / 2 + 2 * (5 + 1) + 4 * (5 + 2)
    assert cost(part) == 2 * 2000 * 11 + 4 * 2 * 10 * pairs


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_rank_has_equally_many_micro_batches_and_every_response_is_in_one(ready, ranks):
    groups = [ready(ordinal, text=ordinal + 1, lengths=[3, 5 + ordinal]) for ordinal in range(7)]
    shares = share(groups, ranks, 40, tokens)
    assert len(shares) == ranks and len({len(batches) for batches in shares}) == 1
    assert responses(shares) == sorted((group.ordinal, row.index) for group in groups for row in group.responses)
    assert all(sum(map(tokens, parts)) <= 40 for batches in shares for parts in batches)


def test_ranks_are_balanced_by_cost(ready):
    groups = [ready(ordinal, sizes=[], text=3, lengths=[length]) for ordinal, length in enumerate([14, 13, 3, 4, 7, 7])]
    loads = [sum(tokens(part) for parts in batches for part in parts) for batches in share(groups, 2, 1000, tokens)]
    # 17 + 10 + 6 against 16 + 10 + 7.
    assert loads == [33, 33]


def test_a_rank_with_fewer_micro_batches_cuts_its_own_before_it_gets_a_filler(ready):
    long = ready(0, sizes=[], text=1, lengths=[9, 9, 9])
    short = [ready(ordinal, sizes=[], text=1, lengths=[2]) for ordinal in (1, 2)]
    first, second = share([long, *short], 2, 10, tokens)
    # Three parts of 10 tokens: two on one rank; the other has one, and both short groups in one micro-batch.
    assert [len(first), len(second)] == [2, 2]
    assert not any(part.is_filler for batches in (first, second) for parts in batches for part in parts)


def test_a_rank_without_work_gets_fillers_of_one_response(ready):
    group = ready(0, lengths=[3, 5])
    (alone,), (filler,) = share([group], 2, 1000, tokens)
    assert [len(part.responses) for part in alone] == [2] and not alone[0].is_filler
    assert [len(part.responses) for part in filler] == [1] and filler[0].is_filler


def test_one_rank_has_the_micro_batches_themselves(ready):
    groups = [ready(ordinal, text=9 - ordinal, lengths=[3, 5]) for ordinal in range(4)]
    (batches,) = share(groups, 1, 45, tokens)
    expected = micro_batches(parts_of(groups, 45), 45)
    assert [[part.group.ordinal for part in parts] for parts in batches] == [
        [part.group.ordinal for part in parts] for parts in expected
    ]
