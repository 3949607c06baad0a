import json
import math
from pathlib import Path

import pytest
import torch

from services.learner.algorithms.losses import Clip, importance_weights, mismatch, policy_loss

GOLDEN = [
    case
    for case in json.loads((Path(__file__).parents[1] / "golden" / "train_cases.json").read_text())["policy_loss"]
    if case["loss_agg_mode"] == "token-mean"
]
PAPER = Clip(0.2, 0.28, 3.0)


def log(*ratios: float) -> torch.Tensor:
    return torch.tensor([math.log(ratio) for ratio in ratios], dtype=torch.float64)


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_the_loss_equals_that_of_v_triune(case):
    mask = torch.tensor(case["mask"]).bool()
    log_probs, old, advantages = (torch.tensor(case[name])[mask] for name in ("log_prob", "old_log_prob", "advantages"))
    low, high, dual = case["clip"]
    clip = Clip(low, high, dual if case["ENABLE_DUAL_CLIP"] == "True" else 0.0)
    loss, sums = policy_loss(log_probs, old, advantages, clip)
    tokens = len(log_probs)
    assert loss.item() / tokens == pytest.approx(case["pg_loss"], abs=1e-6)
    assert (sums["clip_high"] + sums["clip_low"]).item() / tokens == pytest.approx(case["pg_clipfrac"], abs=1e-6)
    assert sums["clip_dual"].item() / tokens == pytest.approx(case["pg_clipfrac_lower"], abs=1e-6)
    assert sums["ppo_kl"].item() / tokens == pytest.approx(case["ppo_kl"], abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, None),
        (1.2, 2.0, -2.4, None),  # below 1.28: free
        (1.5, 2.0, -2.56, "clip_high"),  # −2 · 1.28
        (0.5, 2.0, -1.0, None),  # a good answer may become likelier again
        (0.5, -1.0, 0.8, "clip_low"),  # 1 · 0.8
        (1.5, -1.0, 1.5, None),
        (5.0, -1.0, 3.0, "clip_dual"),  # at most 1 · 3
    ],
)
def test_a_token_is_clipped_as_worked_by_hand(ratio, advantage, loss, clipped):
    found, sums = policy_loss(log(ratio), values(0.0), values(advantage), PAPER)
    assert found.item() == pytest.approx(loss)
    for name in ("clip_high", "clip_low", "clip_dual"):
        assert sums[name].item() == (name == clipped), name
    assert sums["ppo_kl"].item() == pytest.approx(-math.log(ratio))


def test_without_dual_clip_a_bad_token_costs_its_whole_ratio():
    assert policy_loss(log(5.0), values(0.0), values(-1.0), Clip(0.2, 0.28, 0.0))[0].item() == pytest.approx(5.0)


def test_a_clipped_token_has_no_gradient_and_a_free_one_has_minus_a_times_ratio():
    log_probs = log(1.5, 1.1).requires_grad_()
    policy_loss(log_probs, torch.zeros(2, dtype=torch.float64), values(2.0, 2.0), PAPER)[0].backward()
    torch.testing.assert_close(log_probs.grad, values(0.0, -2.2))


def test_gradients_equal_finite_differences():
    generator = torch.Generator().manual_seed(0)
    log_probs, old, advantages, weights = (torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(4))
    log_probs.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: policy_loss(x, old, advantages, PAPER, weights.exp())[0], log_probs)


def test_importance_weights_are_truncated_and_carry_no_gradient():
    old = log(0.3, 0.9, 0.2).requires_grad_()
    weights = importance_weights(old, log(0.1, 0.6, 0.4), cap=2.0)
    torch.testing.assert_close(weights, values(2.0, 1.5, 0.5))
    assert not weights.requires_grad


def test_importance_weights_multiply_the_clipped_surrogate():
    # Clipped at 1.28 · 2 = 2.56, then halved: the weight is kept apart from the ratio.
    loss, _ = policy_loss(log(1.5), values(0.0), values(2.0), PAPER, values(0.5))
    assert loss.item() == pytest.approx(-1.28)


def test_mismatch_is_worked_by_hand():
    found = mismatch(log(0.5, 0.2), log(0.25, 0.2))  # Δ = ln 2 and 0
    assert found["mismatch_abs"].item() == pytest.approx(math.log(2))
    assert found["mismatch_k3"].item() == pytest.approx(2 - 1 - math.log(2))
    assert found["mismatch_max"].item() == pytest.approx(math.log(2))


def test_an_impossible_token_of_the_rollout_gives_a_finite_loss():
    loss, _ = policy_loss(values(0.0), values(-1e9), values(-1.0), PAPER)
    assert loss.item() == pytest.approx(3.0)
