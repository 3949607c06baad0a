"""The choice of the next token, for all rows of a batch at once.

The log-prob of a token is of the whole softmax of `logits / temperature` with the banned tokens removed; top-p narrows
the choice, not the log-prob. The learner computes the same number from the same logits. A greedy row (temperature 0)
gets log-probs at temperature 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import Corrupt


@dataclass(frozen=True)
class Rules:
    """How each of R rows samples: `temperature` (R, 1) with 0 for greedy, `top_p` (R, 1)."""

    temperature: Tensor
    top_p: Tensor
    all_greedy: bool
    any_greedy: bool
    any_top_p: bool

    @classmethod
    def of(cls, temperature: Tensor, top_p: Tensor) -> "Rules":
        """The rules of rows with these temperatures (R,) and nucleus bounds (R,)."""
        greedy = temperature == 0
        return cls(
            temperature[:, None], top_p[:, None], bool(greedy.all()), bool(greedy.any()), bool((top_p < 1).any())
        )


def choose(logits: Tensor, uniforms: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Tokens (R,) and their log-probs (R,) from `logits` float32 (R, V), -inf where banned.

    `uniforms` (R,) in [0, 1) are the only randomness: inverse-transform sampling, so that a row's choice depends on its
    own number and on nothing else in the batch. Raises Corrupt when a row of logits has NaN or +inf.
    """
    if not rules.all_greedy:
        logits = logits / torch.where(rules.temperature == 0, 1.0, rules.temperature)
    if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
        raise Corrupt("the model's logits are not finite; the loaded weights are damaged or have diverged")
    if rules.all_greedy:
        tokens = logits.argmax(dim=-1)
    else:
        # Not by exp and logsumexp: on a CPU they take ten times as long for each probability that is nearly 0.
        tokens = _draw(torch.softmax(logits, dim=-1), uniforms, rules)
        if rules.any_greedy:
            tokens = torch.where(rules.temperature[:, 0] == 0, logits.argmax(dim=-1), tokens)
    return tokens, torch.log_softmax(logits, dim=-1).gather(1, tokens[:, None])[:, 0]


def _draw(probs: Tensor, uniforms: Tensor, rules: Rules) -> Tensor:
    """The first token at which the cumulated probability passes u times the total; never one of probability 0."""
    if rules.any_top_p:
        probs = _nucleus(probs, rules.top_p)
    cumulated = probs.cumsum(dim=-1)
    total = cumulated[:, -1:]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniforms[:, None] * total, below_total)
    return torch.searchsorted(cumulated, threshold, right=True)[:, 0]


def _nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """`probs` with 0 outside the smallest set of most probable tokens whose sum reaches `top_p`."""
    ordered, index = probs.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = torch.where(before < top_p, ordered, 0.0)
    return torch.zeros_like(probs).scatter(1, index, kept)
