"""The loss of a micro-batch: policy loss, its correction, divergence from a reference, entropy, and measures.

Letters: M response tokens of a micro-batch. Sums are returned, never means of a micro-batch: the loss of an update does
not depend on how it is cut.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from services.learner.algorithms.registry import find
from services.learner.algorithms.tokens import LOG_RATIO_LIMIT, Tokens, Totals
from shared.jobs.spec import Algorithm, JobSpec


def objective(
    tokens: Tokens,
    entropy: Tensor,
    reference: Tensor | None,
    settings: Algorithm,
    totals: Totals,
    *,
    corrected: bool,
    distilled: "Distilled | None" = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's part of the update's loss (a scalar with gradient), and sums over its tokens.

    Σ a_t·(w_t·(L_t + T_t) + β·D_t − γ·H_t): a of the aggregation, w of the correction (1 unless `corrected`), L of the
    policy loss, T of the teacher (`Distilled`), D the divergence from `reference` (M,), H the `entropy` (M,). Gradient
    through log-probs and entropy.
    Deviation: V-Triune averages over the tokens of each micro-batch and then over micro-batches, which weighs a token
    by the length of its neighbours; here an update is averaged once.
    """
    sums: dict[str, Tensor] = {"ppo_kl": -tokens.log_ratio.detach().sum(), "entropy": entropy.detach().sum()}
    if reference is not None:
        divergence = find("divergences", settings.kl_estimator)(tokens.log_probs, reference)
        sums["reference_kl"] = divergence.detach().sum()
        if settings.kl_in == "reward":
            tokens = _less_divergence(tokens, divergence.detach(), settings.kl_coefficient)
    losses, clipped = find("losses", settings.loss)(tokens, settings)
    if distilled is not None:
        drawn, apart = distilled.losses(tokens.log_probs)
        losses, sums = losses + drawn, sums | apart
    if corrected:
        weights = find("corrections", settings.correction)(tokens, settings).detach()
        losses = losses * weights
        sums |= {"importance_weight": weights.sum(), "corrected_out": (weights == 0).sum()}
    if reference is not None and settings.kl_in == "loss":
        losses = losses + settings.kl_coefficient * divergence
    if settings.entropy_coefficient:
        losses = losses - settings.entropy_coefficient * entropy
    share = tokens.spread(find("aggregations", settings.aggregation)(tokens.lengths, totals))
    return (losses * share).sum(), sums | clipped


@dataclass(frozen=True, eq=False)
class Distilled:
    """What draws the policy to a teacher: its log-probs `teacher` (M,), NaN where it has none, and λ."""

    teacher: Tensor
    coefficient: float

    def losses(self, log_probs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Per token λ·(log π_θ − log π_T)²/2, (M,), 0 without a teacher; sums of the log-ratio and of such tokens.

        On the policy's own samples its gradient (log π_θ − log π_T)·∇log π_θ has the mean of that of KL(π_θ ‖ π_T) of
        the next token (Schulman 2020, k2). Source: on-policy distillation with the reverse KL, Agarwal et al. 2024,
        arXiv:2306.13649; Gu et al. 2024, arXiv:2306.08543. No reward-to-go: a token answers for itself alone.
        """
        known = ~self.teacher.isnan()
        apart = torch.where(known, log_probs - self.teacher.nan_to_num(), 0.0)
        return 0.5 * self.coefficient * apart.square(), {
            "teacher_kl": apart.detach().sum(),
            "teacher_known": known.sum(),
        }


def _less_divergence(tokens: Tokens, divergence: Tensor, coefficient: float) -> Tokens:
    """Advantages less β times the divergence of the token and of those that follow it in its response.

    Source: Hu et al. 2025, arXiv:2501.03262 (REINFORCE++, its token-level KL penalty).
    """
    whole = divergence.cumsum(0)
    ends = tokens.spread(whole[tokens.lengths.cumsum(0) - 1])
    to_go = ends - whole + divergence
    return Tokens(
        tokens.log_probs, tokens.proximal, tokens.rollout, tokens.advantages - coefficient * to_go, tokens.lengths
    )


def acts_on_uniform(spec: JobSpec) -> bool:
    """Whether a group whose advantages are all 0 has a gradient."""
    settings = spec.algorithm
    return needs_reference(settings) or settings.entropy_coefficient != 0 or bool(spec.distillation.model)


def needs_reference(settings: Algorithm) -> bool:
    """Whether a frozen copy of the first weights is needed."""
    return settings.kl_coefficient > 0


def can_differ(spec: JobSpec) -> bool:
    """Whether sampler and learner are other policies even with equal weights: other kernels, or rounded numbers."""
    on_gpu = torch.cuda.is_available()  # what `auto` means for the sampler is taken to be what it means here
    rounded = "bfloat16" in (spec.learner.dtype, spec.rollout.dtype) or (spec.learner.dtype == "auto" and on_gpu)
    return rounded or spec.rollout.engine == "vllm" or (spec.rollout.engine == "auto" and on_gpu)


def mismatch(log_probs: Tensor, rollout_log_probs: Tensor) -> dict[str, Tensor]:
    """|Δ| and k3 of every token, (M,), of Δ = log π_learner − log π_rollout; inputs (M,).

    k3 = exp(Δ) − 1 − Δ is the unbiased, non-negative estimator of KL(π_rollout ‖ π_learner) under tokens of the
    rollout (Schulman 2020, http://joschu.net/blog/kl-approx.html).
    """
    delta = (log_probs - rollout_log_probs).detach()
    bounded = delta.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return {"mismatch_abs": delta.abs(), "mismatch_k3": bounded.expm1() - bounded}
