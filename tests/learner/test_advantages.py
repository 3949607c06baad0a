import itertools
import json
import math
import typing
from pathlib import Path

import numpy as np
import pytest

from services.learner.algorithms.advantages import reinforce_baseline
from services.learner.algorithms.group import group_advantages, shaped
from services.learner.algorithms.registry import names
from shared.jobs.spec import Algorithm

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "train_cases.json").read_text())["grpo_advantage"]


def advantages(rewards, valid=None, kind="grpo", **settings):
    rewards, settings = np.array(rewards, dtype=np.float64), Algorithm(advantage=kind, **settings)
    return group_advantages(rewards, np.ones(len(rewards), bool) if valid is None else np.array(valid), settings)


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_advantages_equal_those_of_v_triune(case):
    scores, uids = np.array(case["scores"]), np.array(case["uid"])
    for uid in set(uids):
        ours = advantages(scores[uids == uid])
        theirs = [row[0] for row, owner in zip(case["advantages"], uids, strict=True) if owner == uid]
        # The original computes in float32; in one case the rewards differ by its rounding error only.
        np.testing.assert_allclose(ours, theirs, atol=1e-5 if np.ptp(scores) > 1e-3 else 0.01)


def test_two_completions_stand_one_half_of_the_root_of_two_from_their_mean():
    np.testing.assert_allclose(advantages([1.0, 0.0]), [2**-0.5, -(2**-0.5)], rtol=2e-6)


def test_an_invalid_completion_is_left_out_before_mean_and_std():
    found = advantages([1.0, 0.7, 0.0], valid=[True, False, True])
    np.testing.assert_array_equal(found[[0, 2]], advantages([1.0, 0.0]))
    assert np.isnan(found[1])


def test_equal_rewards_have_advantage_zero():
    assert advantages([0.3, 0.3, 0.3]).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo"])
def test_a_single_valid_completion_has_advantage_zero(kind):
    np.testing.assert_array_equal(advantages([0.9, 0.2], valid=[True, False], kind=kind), [0.0, np.nan])


def test_a_group_without_a_verdict_is_masked_whole():
    assert np.isnan(advantages([0.0, 0.0], valid=[False, False])).all()


def test_dr_grpo_only_subtracts_the_mean():
    np.testing.assert_allclose(advantages([1.0, 0.5, 0.0, 0.5], kind="dr_grpo"), [0.5, 0.0, -0.5, 0.0])


def test_rewards_and_validity_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="expected equal shapes"):
        group_advantages(np.zeros(2), np.ones(3, bool), "grpo")


@pytest.mark.parametrize("n", range(2, 17))
@pytest.mark.parametrize("reward", [0.1, 0.2, 0.7, 0.95])
def test_equal_rewards_have_advantages_of_exactly_zero(n: int, reward: float) -> None:
    assert not group_advantages(np.full(n, reward), np.ones(n, dtype=bool), "grpo").any()


def test_rloo_compares_each_completion_with_the_mean_of_the_others():
    # The others of 1, 0, 0.5, 0 sum to 0.5, 1.5, 1 and 1.5.
    expected = [1 - 0.5 / 3, 0 - 1.5 / 3, 0.5 - 1 / 3, 0 - 1.5 / 3]
    np.testing.assert_allclose(advantages([1, 0, 0.5, 0], kind="rloo"), expected)


def test_pass_at_k_rewards_what_a_completion_adds_to_the_best_of_k():
    # k = n = 2: the better one adds its lead, times n / C(2, 2) = 2.
    np.testing.assert_allclose(advantages([0.25, 1.0], kind="pass_at_k", pass_k=2), [0.0, 1.5])
    # One right of four, k = 2: it adds 1 to each of its 3 subsets of C(4, 2) = 6; times n = 4 that is 2.
    np.testing.assert_allclose(advantages([0, 1, 0, 0], kind="pass_at_k", pass_k=2), [0, 2, 0, 0])
    # Two right of four, k = 3: of the 4 subsets one holds the first alone, and one the second; times 4 / 4 that is 1.
    np.testing.assert_allclose(advantages([1, 1, 0, 0], kind="pass_at_k", pass_k=3), [1, 1, 0, 0])


@pytest.mark.parametrize("k", [2, 3, 5])
def test_pass_at_k_is_the_sum_over_all_subsets(k):
    rewards = np.random.default_rng(k).random(6)
    expected = np.zeros(6)
    for chosen in itertools.combinations(range(6), k):
        for one in chosen:
            others = [rewards[other] for other in chosen if other != one]
            expected[one] += max(rewards[list(chosen)]) - max(others)
    found = advantages(rewards, kind="pass_at_k", pass_k=k)
    np.testing.assert_allclose(found, expected * 6 / math.comb(6, k), atol=1e-12)


def test_reinforce_baseline_is_scaled_by_the_whole_step():
    groups = [advantages(rewards, kind="reinforce_baseline") for rewards in ([1, 0], [0.5, 0.25])]
    np.testing.assert_allclose(groups[1], [0.125, -0.125])
    # Of 0.5, −0.5, 0.125, −0.125 and the 0 of a third group the mean is 0.
    scaled = reinforce_baseline.over_step([*groups, np.array([np.nan, 0.0])])
    std = np.sqrt(2 * (0.25 + 0.015625) / 5)
    np.testing.assert_allclose(scaled[0], [0.5 / std, -0.5 / std], rtol=1e-6)
    assert np.isnan(scaled[2][0])


def test_a_long_completion_loses_reward_over_the_last_tokens_before_the_limit():
    settings = Algorithm(overlong_buffer=20, overlong_penalty=0.5)
    found = shaped(np.ones(4), [80, 90, 100, 10], 100, settings)
    np.testing.assert_allclose(found, [1.0, 0.75, 0.5, 1.0])
    np.testing.assert_allclose(shaped(np.ones(1), [100], 100, Algorithm()), [1.0])


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("advantages", "advantage"),
        ("losses", "loss"),
        ("aggregations", "aggregation"),
        ("corrections", "correction"),
        ("divergences", "kl_estimator"),
    ],
)
def test_the_job_file_knows_exactly_the_algorithms_that_have_a_file(kind, key):
    fields = typing.get_type_hints(Algorithm, include_extras=False)
    assert names(kind) == set(typing.get_args(fields[key]))
