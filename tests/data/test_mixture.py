"""The order of a job: every row once an epoch, the same from wherever one starts, weights and their changes."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.data.mixing import mixture as module
from services.data.mixing.mixture import SHUFFLE_ROWS, Mixture, Pick, SourceOrder, Weights, shuffled
from shared.errors import BadData

segments = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.lists(st.integers(1, 20), min_size=1, max_size=5), min_size=1
)
seeds = st.integers(0, 2**63)


def every_row(sizes: dict[str, list[int]]) -> set[Pick]:
    return {Pick(s, g, r) for s, groups in sizes.items() for g, rows in enumerate(groups) for r in range(rows)}


def flat(sizes: dict[str, list[int]]) -> list[Weights]:
    return [Weights(0, dict.fromkeys(sizes, 1.0))]


@given(seeds, segments, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_at_weight_one_every_epoch_visits_every_row_exactly_once(
    seed: int, sizes: dict[str, list[int]], epoch: int
) -> None:
    mixture = Mixture(seed, sizes, flat(sizes))
    rows = every_row(sizes)
    picks = [mixture.at(epoch * len(rows) + offset) for offset in range(len(rows))]
    assert len(picks) == len(set(picks)) and set(picks) == rows


@given(seeds, segments, st.lists(st.integers(0, 300), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_the_order_does_not_depend_on_where_one_starts(
    seed: int, sizes: dict[str, list[int]], ordinals: list[int]
) -> None:
    in_order = Mixture(seed, sizes, flat(sizes))
    sequence = [in_order.at(ordinal) for ordinal in range(max(ordinals) + 1)]
    assert [Mixture(seed, sizes, flat(sizes)).at(ordinal) for ordinal in ordinals] == [sequence[o] for o in ordinals]


@given(
    seeds,
    segments,
    st.lists(st.tuples(st.integers(1, 60), st.floats(0.1, 3.0), st.floats(0.1, 3.0)), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_under_any_weights_and_changes_a_source_repeats_no_row_within_its_pass(
    seed: int, sizes: dict[str, list[int]], changes: list[tuple[int, float, float]]
) -> None:
    weights, since = flat(sizes), 0
    for gap, a, b in changes:
        since += gap
        weights.append(Weights(since, {"a": a, "b": b}))
    mixture = Mixture(seed, sizes, weights)
    drawn: dict[str, list[tuple[int, int]]] = {}
    for ordinal in range(since + 150):
        pick = mixture.at(ordinal)
        drawn.setdefault(pick.source, []).append((pick.segment, pick.row))
    for source, rows in drawn.items():
        size = sum(sizes[source])
        for start in range(0, len(rows), size):
            assert len(set(rows[start : start + size])) == len(rows[start : start + size])


def test_a_change_leaves_what_came_before_it_alone() -> None:
    sizes = {"a": [40], "b": [60]}
    before, after = Mixture(1, sizes, flat(sizes)), Mixture(1, sizes, [*flat(sizes), Weights(37, {"a": 3.0})])
    assert [before.at(o) for o in range(37)] == [after.at(o) for o in range(37)]
    assert [before.at(o) for o in range(37, 137)] != [after.at(o) for o in range(37, 137)]


@pytest.fixture(params=[7, 1 << 18], ids=["rounds of 7", "one round"])
def _rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUND", request.param)


@pytest.mark.usefixtures("_rounds")
def test_an_epoch_in_rounds_holds_every_row_once_and_every_source_has_its_share_of_each_round() -> None:
    sizes = {"a": [4, 6], "b": [20], "c": [1]}
    mixture = Mixture(5, sizes, flat(sizes))
    for epoch in range(3):
        picks = [mixture.at(epoch * 31 + offset) for offset in range(31)]
        assert set(picks) == every_row(sizes)
    first = Counter(pick.source for pick in [mixture.at(ordinal) for ordinal in range(31)][:14])
    if module.ROUND == 7:  # 31 places in 5 rounds: after two of them 2/5 of 10, of 20 and of 1 rows, rounded down
        assert [first[name] for name in "ab"] in ([4, 8], [4, 9], [4, 10], [5, 8], [5, 9])


@pytest.mark.usefixtures("_rounds")
def test_a_change_within_a_round_goes_on_where_every_source_was() -> None:
    sizes = {"a": [10], "b": [20]}
    mixture = Mixture(5, sizes, [*flat(sizes), Weights(17, {"b": 0.0})])
    a = [pick.row for pick in map(mixture.at, range(17 + 40)) if pick.source == "a"]
    assert all(sorted(a[start : start + 10]) == list(range(10)) for start in range(0, len(a) - 9, 10))
    assert {mixture.at(ordinal).source for ordinal in range(17, 57)} == {"a"}


def test_a_size_exponent_gives_small_sources_more_in_an_epoch_of_the_same_length() -> None:
    sizes = {"large": [900], "small": [100]}
    mixture = Mixture(0, sizes, flat(sizes), size_exponent=0.5)  # shares 30 : 10
    assert Counter(mixture.at(o).source for o in range(1000)) == {"large": 750, "small": 250}
    even = Mixture(0, sizes, flat(sizes), size_exponent=0.0)
    assert Counter(even.at(o).source for o in range(1000)) == {"large": 500, "small": 500}


def test_a_source_in_stored_order_comes_as_its_files_have_it_pass_after_pass() -> None:
    sizes = {"a": [3, 4], "b": [50]}
    mixture = Mixture(0, sizes, flat(sizes), stored=["a"])
    a = [(pick.segment, pick.row) for pick in map(mixture.at, range(57 * 2)) if pick.source == "a"]
    assert a == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)] * 2


def test_a_further_source_leaves_the_order_of_the_others_alone() -> None:
    sizes = {"a": [40, 10], "c": [60]}
    before = Mixture(3, sizes, flat(sizes))
    more = sizes | {"b": [70], "d": [5]}
    after = Mixture(3, more, flat(more))
    kept = [pick for pick in map(after.at, range(185)) if pick.source in sizes]
    assert kept == [before.at(ordinal) for ordinal in range(110)]


def test_an_ordinal_costs_the_same_at_any_place_of_a_million_rows() -> None:
    """Rounds are made once each, of at most ROUND places, and nothing is counted from an epoch's start."""
    sizes = {"a": [1000] * 700, "b": [1000] * 300}
    mixture = Mixture(1, sizes, flat(sizes))
    for ordinal in (0, 5, 600_000, 600_001, 999_998, 999_999):
        mixture.at(ordinal)
    made = mixture._round.cache_info()
    assert made.misses == 3 and made.hits == 3
    assert all(len(mixture._round(0, 0, round_).sources) <= module.ROUND for round_ in range(4))


def test_a_huge_weight_takes_no_more_memory_than_a_small_one() -> None:
    mixture = Mixture(1, {"a": [1000], "b": [1000]}, [Weights(0, {"a": 10**6})])
    assert Counter(mixture.at(ordinal).source for ordinal in range(500))["a"] >= 499


def test_a_weight_is_a_share_relative_to_the_sources_size() -> None:
    sizes = {"a": [10, 30], "b": [60], "c": [50]}
    mixture = Mixture(7, sizes, [Weights(0, {"a": 0.5, "b": 2.0, "c": 0.0})])
    epoch = Counter(mixture.at(ordinal).source for ordinal in range(20 + 120))
    assert epoch == {"a": 20, "b": 120}
    two = [mixture.at(ordinal) for ordinal in range(280)]
    a = [(pick.segment, pick.row) for pick in two if pick.source == "a"]
    assert len(a) == 40 and len(set(a)) == 40  # two half passes make a whole one


def test_a_source_with_a_tiny_weight_still_comes() -> None:
    mixture = Mixture(0, {"a": [100], "b": [3]}, [Weights(0, {"b": 0.01})])
    assert Counter(mixture.at(o).source for o in range(101)) == {"a": 100, "b": 1}


def test_no_weight_at_all_is_bad_data() -> None:
    with pytest.raises(BadData, match="every source has weight 0: a, b"):
        Mixture(0, {"a": [1], "b": [1]}, [Weights(0, {"a": 0.0, "b": 0.0})])


def test_epochs_and_seeds_differ() -> None:
    sizes = {"a": [200], "b": [100]}
    mixture = Mixture(3, sizes, flat(sizes))
    first, second = [mixture.at(o) for o in range(300)], [mixture.at(o) for o in range(300, 600)]
    other = Mixture(4, sizes, flat(sizes))
    assert first != second and first != [other.at(o) for o in range(300)]


def test_the_total_counts_a_cut_epoch_in_part() -> None:
    sizes = {"a": [100]}
    assert Mixture(0, sizes, flat(sizes)).total(3) == 300
    doubled = Mixture(0, sizes, [*flat(sizes), Weights(50, {"a": 2.0})])
    assert doubled.total(1) == 50 + 100  # half an epoch of 100, half an epoch of 200
    assert Mixture(0, sizes, [*flat(sizes), Weights(250, {"a": 2.0})]).total(2) == 200


def test_a_source_order_reads_each_row_group_once_a_pass() -> None:
    """Blocks of row groups follow each other: one is finished before the next is opened."""
    groups = [400] * 12
    order = SourceOrder(5, "a", groups)
    opened = [order.at(position)[0] for position in range(sum(groups))]
    per_block = -(-SHUFFLE_ROWS // 400)
    blocks = [set(opened[start : start + per_block * 400]) for start in range(0, sum(groups), per_block * 400)]
    assert [len(block) for block in blocks] == [per_block] * 4
    assert set.union(*blocks) == set(range(12))


def test_the_shuffle_is_pinned() -> None:
    """PCG64's raw output is promised not to change; if this fails, old jobs would replay with other samples."""
    assert shuffled(8, 0, "pinned").tolist() == [5, 0, 1, 7, 2, 4, 3, 6]
