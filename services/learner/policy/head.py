"""The last layer and the log-probs of what was sampled, in one: no logits of a whole micro-batch are ever kept.

Letters: M response tokens, H channels, V logits.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.models.memory import LOGITS_AT_ONCE


class LogProbHead(nn.Linear):
    """`lm_head` over the same weight; called with targets it gives their log-probs and not the logits.

    It is one module call, so that ZeRO-3 gathers the weight for it once forward and once backward.
    """

    @classmethod
    def over(cls, linear: nn.Linear) -> "LogProbHead":
        """The head in place of `linear`."""
        head = cls.__new__(cls)
        head.__dict__.update(linear.__dict__)
        return head

    def forward(
        self, input: Tensor, targets: Tensor | None = None, bias: Tensor | None = None, temperature: float = 1.0
    ) -> Any:
        """Logits (…, V) of `input` (…, H); with `targets` (M,) and `input` (M, H), log-probs and entropies (M,).

        The distribution is softmax((input·Wᵀ + `bias`) / temperature), `bias` (V,) in units of the scaled logits.
        """
        if targets is None or bias is None:
            return F.linear(input, self.weight, self.bias)
        rows = max(1, LOGITS_AT_ONCE[input.device.type] // len(bias))
        return _LogProbs.apply(input, self.weight, targets, bias, temperature, rows)


class _LogProbs(torch.autograd.Function):
    """Rows in chunks; the probabilities are kept when there is one chunk, and computed again when there are more.

    d log p_t / d logit_j = δ_tj − p_j and dH / d logit_j = −p_j (log p_j + H), both over the temperature. The weight's
    gradient is one buffer that every chunk adds to, in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor, temperature: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        log_probs, entropies, kept = [], [], None
        for start in range(0, len(hidden), rows):
            chosen = slice(start, start + rows)
            logs = _log_softmax(hidden[chosen], weight, bias, temperature)
            kept = _probabilities(logs)
            log_probs.append(logs.gather(-1, targets[chosen, None]).squeeze(-1))
            entropies.append(-torch.linalg.vecdot(kept, logs))
        ctx.set_materialize_grads(False)  # of an entropy that is only measured
        ctx.temperature, ctx.rows = temperature, rows
        ctx.probabilities = kept if len(hidden) <= rows else None
        entropy = torch.cat(entropies)
        ctx.save_for_backward(hidden, weight, targets, bias, entropy)
        return torch.cat(log_probs), entropy

    @staticmethod
    def backward(ctx: Any, of_log_probs: Tensor | None, of_entropy: Tensor | None) -> Any:
        hidden, weight, targets, bias, entropy = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), ctx.rows):
            chosen = slice(start, start + ctx.rows)
            probabilities = ctx.probabilities
            if probabilities is None:
                probabilities = _probabilities(_log_softmax(hidden[chosen], weight, bias, ctx.temperature))
            of_logits = _of_logits(
                probabilities,
                targets[chosen],
                None if of_log_probs is None else of_log_probs[chosen, None],
                None if of_entropy is None else of_entropy[chosen, None],
                entropy[chosen, None],
            )
            of_logits = of_logits.div_(ctx.temperature).to(weight.dtype)
            torch.mm(of_logits, weight, out=of_hidden[chosen])
            if of_weight is not None:
                _add_product(of_weight, of_logits.t(), hidden[chosen])
        ctx.probabilities = None  # spent
        return of_hidden, of_weight, None, None, None, None


def _log_softmax(hidden: Tensor, weight: Tensor, bias: Tensor, temperature: float) -> Tensor:
    logits = F.linear(hidden, weight).float()
    if temperature != 1.0:
        logits = logits.div_(temperature)
    return F.log_softmax(logits.add_(bias), dim=-1)


def _probabilities(logs: Tensor) -> Tensor:
    """exp(`logs`), (M, V), up to rounding: on a CPU `exp` takes ten times as long for each that is nearly 0."""
    return F.softmax(logs, dim=-1)


def _of_logits(
    probabilities: Tensor, targets: Tensor, of_log_probs: Tensor | None, of_entropy: Tensor | None, entropy: Tensor
) -> Tensor:
    """The gradient (M, V), in place of the `probabilities`; those of values, and the `entropy`, are (M, 1)."""
    spread = None
    if of_entropy is not None:
        spread = torch.xlogy(probabilities, probabilities).add_(probabilities * entropy).mul_(of_entropy)
    if of_log_probs is None:
        probabilities.zero_()
    else:
        probabilities.mul_(-of_log_probs).scatter_add_(1, targets[:, None], of_log_probs)
    return probabilities if spread is None else probabilities.sub_(spread)


def _add_product(sums: Tensor, left: Tensor, right: Tensor) -> None:
    """sums += left · right; the product is rounded to its own type first if that is a smaller one."""
    if left.dtype == sums.dtype:
        sums.addmm_(left, right)
    else:
        sums.add_(left @ right)
