import pytest
import torch
from torch import nn

from services.learner.policy.head import LogProbHead
from shared.models.memory import LOGITS_AT_ONCE

M, H, V = 7, 5, 11


def plain(linear, hidden, targets, bias, temperature):
    logits = (linear(hidden) / temperature + bias).log_softmax(-1)
    return logits.gather(-1, targets[:, None]).squeeze(-1), -(logits.exp() * logits).sum(-1)


@pytest.mark.parametrize("rows_at_once", [100, 3, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, -0.3)])
def test_values_and_gradients_are_those_of_the_plain_computation(monkeypatch, rows_at_once, temperature, weights):
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", rows_at_once * V)
    random = torch.Generator().manual_seed(0)
    linear = nn.Linear(H, V, bias=False).double()
    hidden = torch.randn(M, H, generator=random, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(V, (M,), generator=random)
    bias = torch.zeros(V).index_fill_(0, torch.tensor([2]), -1e9)
    scale = torch.randn(M, generator=random)
    found = []
    for compute in (lambda *inputs: LogProbHead.over(linear)(*inputs), lambda *inputs: plain(linear, *inputs)):
        linear.weight.grad = hidden.grad = None
        log_probs, entropy = compute(hidden, targets.clamp(min=3), bias, temperature)
        pairs = zip(weights, (log_probs, entropy), strict=True)
        loss = sum(part * (scale * values).sum() for part, values in pairs if part)
        loss.backward()
        found.append([log_probs, entropy, hidden.grad, linear.weight.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


def test_without_targets_it_is_the_linear_layer():
    linear = nn.Linear(H, V, bias=False)
    hidden = torch.randn(2, 3, H)
    assert torch.equal(LogProbHead.over(linear)(hidden), linear(hidden))


def test_a_frozen_weight_gets_no_gradient_and_the_hidden_states_do():
    linear = nn.Linear(H, V, bias=False).requires_grad_(False)
    hidden = torch.randn(M, H, requires_grad=True)
    log_probs, _ = LogProbHead.over(linear)(hidden, torch.zeros(M, dtype=torch.long), torch.zeros(V))
    log_probs.sum().backward()
    assert linear.weight.grad is None and hidden.grad.abs().sum() > 0
