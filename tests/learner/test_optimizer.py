import math

import pytest
import torch
from torch import nn

from services.learner.policy.optimizer import ClippedAdamW, Diverged, rate_factor
from shared.jobs.spec import Optimizer

NAMES = ["model.visual.blocks.0.w", "model.visual.merger.w", "model.language_model.layers.1.w"]


def parameters():
    return {name: nn.Parameter(torch.ones(2)) for name in NAMES}


def give(parameters, *gradients):
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        parameter.grad = torch.tensor(gradient)


def test_warm_up_starts_above_zero_and_ends_at_the_peak():
    settings = Optimizer(warmup_steps=4)
    assert [rate_factor(settings, step, 100) for step in (1, 2, 4, 5, 100)] == [0.25, 0.5, 1.0, 1.0, 1.0]


def test_cosine_falls_from_one_and_never_reaches_zero():
    settings = Optimizer(warmup_steps=2, schedule="cosine")
    factors = [rate_factor(settings, step, 6) for step in range(3, 7)]
    assert factors == pytest.approx([1.0, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)])


def test_norms_are_counted_by_component_and_layer_and_the_gradient_is_clipped():
    weights = parameters()
    optimizer = ClippedAdamW(weights, Optimizer(learning_rate=0.1, weight_decay=0.0, beta1=0.0, max_grad_norm=1.0))
    give(weights, [3.0, 0.0], [0.0, 4.0], [12.0, 0.0])
    metrics = optimizer.update(1, 10)
    assert metrics["grad_norm"] == pytest.approx(13.0)
    assert metrics["grad_norm/vit"] == pytest.approx(3.0)
    assert metrics["layer_grad_norm/visual.merger"] == pytest.approx(4.0)
    assert metrics["layer_grad_norm/model.layers.1"] == pytest.approx(12.0)
    moment = optimizer.state()["exp_avg_sq/model.language_model.layers.1.w"][0].item()
    assert moment == pytest.approx(0.001 * (12 / 13) ** 2, rel=1e-4)  # (1 − β₂) g², g clipped to norm 1


def test_each_component_has_its_own_rate():
    weights = parameters()
    settings = Optimizer(learning_rate=0.1, learning_rate_vit=0.02, weight_decay=0.0, warmup_steps=2)
    optimizer = ClippedAdamW(weights, settings)
    give(weights, [1.0, 1.0], [1.0, 1.0], [1.0, 1.0])
    metrics = optimizer.update(1, 10)
    assert (metrics["lr"], metrics["lr/vit"], metrics["lr/connector"]) == pytest.approx((0.05, 0.01, 0.05))
    # Adam's first update is the rate, whatever the gradient's size.
    assert [round(1 - weight[0].item(), 4) for weight in weights.values()] == [0.01, 0.05, 0.05]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(bad):
    weights = parameters()
    optimizer = ClippedAdamW(weights, Optimizer(learning_rate=0.1))
    give(weights, [bad, 0.0], [0.0, 4.0], [12.0, 0.0])
    assert optimizer.update(1, 10)["skipped"] == 1.0
    assert all(weight.tolist() == [1.0, 1.0] and weight.grad is None for weight in weights.values())


def test_ten_skipped_updates_in_a_row_are_an_error_and_a_good_one_between_starts_anew():
    weights = parameters()
    optimizer = ClippedAdamW(weights, Optimizer())
    for good in [False] * 9 + [True] + [False] * 9:
        give(weights, [1.0 if good else math.nan, 0.0], [0.0, 4.0], [12.0, 0.0])
        optimizer.update(1, 10)
    give(weights, [math.nan, 0.0], [0.0, 4.0], [12.0, 0.0])
    with pytest.raises(Diverged, match="10 updates in a row"):
        optimizer.update(1, 10)
