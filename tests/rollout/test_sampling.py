"""The choice of a token, by hand."""

import math

import pytest
import torch

from services.rollout.engines.sampling import Rules, choose
from shared.errors import Corrupt


def rules(temperature: list[float], top_p: list[float] | None = None) -> Rules:
    return Rules.of(torch.tensor(temperature), torch.tensor(top_p or [1.0] * len(temperature)))


def logits_of(*probs: float) -> torch.Tensor:
    return torch.tensor([[math.log(p) if p else -math.inf for p in probs]])


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.24, 1), (0.26, 2), (0.74, 2), (0.76, 4), (0.9999999, 4)])
def test_the_token_is_where_the_cumulated_probability_passes_the_number(uniform: float, token: int) -> None:
    """Probabilities 0, 1/4, 1/2, 0, 1/4, 0: banned tokens are never chosen, also at the ends."""
    logits = logits_of(0, 0.25, 0.5, 0, 0.25, 0)
    tokens, log_probs = choose(logits, torch.tensor([uniform]), rules([1.0]))
    assert tokens.tolist() == [token]
    assert log_probs.item() == pytest.approx(math.log(0.5 if token == 2 else 0.25), abs=1e-6)


def test_temperature_divides_the_logits() -> None:
    """Odds of 1 : 3 become 1 : 9 at temperature 1/2."""
    _, log_probs = choose(logits_of(0.25, 0.75), torch.tensor([0.05]), rules([0.5]))
    assert log_probs.item() == pytest.approx(math.log(0.1), abs=1e-6)


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    logits = logits_of(0.4, 0.6).repeat(2, 1)
    tokens, log_probs = choose(logits, torch.tensor([0.1, 0.1]), rules([0.0, 1.0]))
    assert tokens.tolist() == [1, 0]
    assert log_probs.tolist() == pytest.approx([math.log(0.6), math.log(0.4)], abs=1e-6)


def test_top_p_narrows_the_choice_but_not_the_log_prob() -> None:
    """Of 1/2, 3/10, 1/5 the first two reach 0.6; u = 0.99 would choose the third without top-p."""
    logits = logits_of(0.5, 0.3, 0.2)
    assert choose(logits, torch.tensor([0.99]), rules([1.0]))[0].item() == 2
    tokens, log_probs = choose(logits, torch.tensor([0.99]), rules([1.0], [0.6]))
    assert tokens.item() == 1
    assert log_probs.item() == pytest.approx(math.log(0.3), abs=1e-6)


def test_frequencies_are_the_probabilities() -> None:
    """10,000 evenly spread numbers: exact up to rounding at the two bounds."""
    uniforms = (torch.arange(10_000) + 0.5) / 10_000
    tokens, _ = choose(logits_of(0.2, 0.5, 0.3).repeat(10_000, 1), uniforms, rules([1.0] * 10_000))
    assert torch.bincount(tokens).tolist() == pytest.approx([2000, 5000, 3000], abs=2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(value: float) -> None:
    with pytest.raises(Corrupt, match="not finite"):
        choose(torch.tensor([[0.0, value]]), torch.tensor([0.5]), rules([1.0]))


def test_a_row_without_an_allowed_token_is_an_error() -> None:
    with pytest.raises(Corrupt, match="not finite"):
        choose(torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]]), torch.tensor([0.5, 0.5]), rules([1.0, 1.0]))
