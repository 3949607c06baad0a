import json
from pathlib import Path

import numpy as np
import pytest

from services.learner.algorithms.advantages import group_advantages

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "train_cases.json").read_text())["grpo_advantage"]


def advantages(rewards, valid=None, kind="grpo"):
    rewards = np.array(rewards, dtype=np.float64)
    return group_advantages(rewards, np.ones(len(rewards), bool) if valid is None else np.array(valid), kind)


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
