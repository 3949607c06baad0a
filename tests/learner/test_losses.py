import json
import math
from pathlib import Path

import pytest
import torch

from services.learner.algorithms.aggregations import constant, sequence_mean, token_mean
from services.learner.algorithms.corrections import geometric, icepop, sequence, token
from services.learner.algorithms.divergences import k1, k2, k3
from services.learner.algorithms.losses import cispo, gspo, ppo_clip, sapo
from services.learner.algorithms.objective import can_differ, mismatch, objective
from services.learner.algorithms.tokens import Tokens, Totals
from shared.errors import BadJob
from shared.jobs.document import parse_job
from shared.jobs.spec import Algorithm

GOLDEN = [
    case
    for case in json.loads((Path(__file__).parents[1] / "golden" / "train_cases.json").read_text())["policy_loss"]
    if case["loss_agg_mode"] == "token-mean"
]
PAPER = Algorithm(clip_low=0.2, clip_high=0.28, dual_clip=3.0)


def make_tokens(log_probs, proximal, advantages, rollout=None, lengths=None) -> Tokens:
    lengths = torch.tensor([len(log_probs)] if lengths is None else lengths)
    return Tokens(log_probs, proximal, proximal if rollout is None else rollout, advantages, lengths)


def policy_loss(log_probs, old, advantages, settings=PAPER):
    """Sums over tokens of PPO's loss and its measures."""
    losses, sums = ppo_clip.loss(make_tokens(log_probs, old, advantages), settings)
    return losses.sum(), sums


def log(*ratios: float) -> torch.Tensor:
    return torch.tensor([math.log(ratio) for ratio in ratios], dtype=torch.float64)


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_the_loss_equals_that_of_v_triune(case):
    mask = torch.tensor(case["mask"]).bool()
    log_probs, old, advantages = (torch.tensor(case[name])[mask] for name in ("log_prob", "old_log_prob", "advantages"))
    low, high, dual = case["clip"]
    dual = dual if case["ENABLE_DUAL_CLIP"] == "True" else 0.0
    settings = Algorithm(clip_low=low, clip_high=high, dual_clip=dual)
    loss, sums = policy_loss(log_probs, old, advantages, settings)
    tokens = len(log_probs)
    assert loss.item() / tokens == pytest.approx(case["pg_loss"], abs=1e-6)
    assert (sums["clip_high"] + sums["clip_low"]).item() / tokens == pytest.approx(case["pg_clipfrac"], abs=1e-6)
    assert sums["clip_dual"].item() / tokens == pytest.approx(case["pg_clipfrac_lower"], abs=1e-6)
    whole = make_tokens(log_probs, old, advantages)
    found, sums = objective(whole, torch.zeros(tokens), None, settings, Totals(tokens, 1, 1), corrected=False)
    assert found.item() == pytest.approx(case["pg_loss"], abs=1e-6)
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


def test_without_dual_clip_a_bad_token_costs_its_whole_ratio():
    assert policy_loss(log(5.0), values(0.0), values(-1.0), Algorithm(dual_clip=0.0))[0].item() == pytest.approx(5.0)


def test_a_clipped_token_has_no_gradient_and_a_free_one_has_minus_a_times_ratio():
    log_probs = log(1.5, 1.1).requires_grad_()
    policy_loss(log_probs, torch.zeros(2, dtype=torch.float64), values(2.0, 2.0), PAPER)[0].backward()
    torch.testing.assert_close(log_probs.grad, values(0.0, -2.2))


@pytest.mark.parametrize("loss", ["ppo_clip", "gspo", "sapo"])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_gradients_equal_finite_differences(loss, aggregation):
    generator = torch.Generator().manual_seed(0)
    log_probs, old, advantages, rollout = (torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(4))
    log_probs.requires_grad_()
    settings = Algorithm(loss=loss, aggregation=aggregation, correction="sequence", kl_coefficient=0.1)

    def whole(x):
        tokens = make_tokens(x, old, advantages, rollout, lengths=[15, 1, 24])
        return objective(tokens, torch.zeros(40), rollout, settings, Totals(40, 3, 30), corrected=True)[0]

    assert torch.autograd.gradcheck(whole, log_probs)


def test_gspo_clips_a_response_by_the_geometric_mean_of_its_ratios():
    # Ratios 1.2 and 1.8: geometric mean sqrt(2.16) = 1.4697, clipped to 1.28. The second response's is 0.9.
    tokens = make_tokens(log(1.2, 1.8, 0.9), values(0, 0, 0), values(1, 1, 2), lengths=[2, 1])
    losses, sums = gspo.loss(tokens, PAPER)
    torch.testing.assert_close(losses, values(-1.28, -1.28, -1.8))
    assert sums["clip_high"].item() == 2


def test_gspo_gives_every_token_of_a_response_the_same_gradient():
    log_probs = log(1.1, 0.9, 1.0).requires_grad_()
    losses, _ = gspo.loss(make_tokens(log_probs, values(0, 0, 0), values(1, 1, 1), lengths=[3]), PAPER)
    losses.sum().backward()
    torch.testing.assert_close(log_probs.grad, torch.full((3,), -(0.99 ** (1 / 3)), dtype=torch.float64))


def test_cispo_weighs_every_token_and_cuts_none_off():
    # −sg(min(1.5, 1.28))·2·log 1.5; its gradient is −1.28·2 where PPO's is 0.
    log_probs = log(1.5, 0.5).requires_grad_()
    losses, sums = cispo.loss(
        make_tokens(log_probs, values(0, 0), values(2, 1)), Algorithm(clip_low=1.0, clip_high=0.28)
    )
    torch.testing.assert_close(losses.detach(), values(-2.56 * math.log(1.5), -0.5 * math.log(0.5)))
    losses.sum().backward()
    torch.testing.assert_close(log_probs.grad, values(-2.56, -0.5))
    assert (sums["clip_high"].item(), sums["clip_low"].item()) == (1, 0)


def test_sapo_fades_far_tokens_faster_for_bad_answers():
    # At r = 1 the slope is that of −A·r; at r = 2 it is 4·σ'(τ)·r: 4·0.196612·2 and 4·0.192027·2 (τ = 1, 1.05).
    for ratio, advantage, slope in ((1.0, 1.0, -1.0), (1.0, -1.0, 1.0), (2.0, 1.0, -1.572895), (2.0, -1.0, 1.536216)):
        log_probs = log(ratio).requires_grad_()
        sapo.loss(make_tokens(log_probs, values(0), values(advantage)), PAPER)[0].sum().backward()
        assert log_probs.grad.item() == pytest.approx(slope, rel=1e-4)


def test_aggregations_weigh_a_short_and_a_long_response_as_worked_by_hand():
    lengths, totals = torch.tensor([1, 4]), Totals(tokens=10, sequences=4, limit=8)
    torch.testing.assert_close(token_mean.weights(lengths, totals), torch.tensor([0.1, 0.1]))
    torch.testing.assert_close(sequence_mean.weights(lengths, totals), torch.tensor([0.25, 0.0625]))
    torch.testing.assert_close(constant.weights(lengths, totals), torch.tensor([1 / 32, 1 / 32]))


def test_corrections_are_worked_by_hand():
    # π_old/π_rollout: 3 and 0.5 in the first response (product 1.5, geometric mean 1.2247), 0.25 in the second.
    old, rollout = log(0.3, 0.2, 0.1).requires_grad_(), log(0.1, 0.4, 0.4)
    tokens = make_tokens(old, old, values(1, 1, 1), rollout, lengths=[2, 1])
    settings = Algorithm(importance_cap=2.0, importance_floor=0.4)
    torch.testing.assert_close(token.correction(tokens, settings), values(2.0, 0.5, 0.25))
    torch.testing.assert_close(sequence.correction(tokens, settings), values(1.5, 1.5, 0.25))
    torch.testing.assert_close(icepop.correction(tokens, settings), values(0.0, 0.5, 0.0))
    torch.testing.assert_close(geometric.correction(tokens, settings), values(1.0, 1.0, 0.0))


def test_corrections_multiply_the_clipped_surrogate_and_carry_no_gradient():
    # Clipped at 1.28 · 2 = 2.56, then halved: the weight is kept apart from the ratio.
    tokens = make_tokens(log(1.5).requires_grad_(), values(0.0), values(2.0), rollout=log(2.0))
    loss, sums = objective(tokens, values(0.0), None, PAPER, Totals(1, 1, 1), corrected=True)
    assert loss.item() == pytest.approx(-1.28)
    assert sums["importance_weight"].item() == pytest.approx(0.5) and sums["corrected_out"].item() == 0


def test_divergences_are_worked_by_hand():
    log_probs, reference = log(0.5), log(0.25)  # log-ratio ln 2
    assert k1.divergence(log_probs, reference).item() == pytest.approx(math.log(2))
    assert k2.divergence(log_probs, reference).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert k3.divergence(log_probs, reference).item() == pytest.approx(0.5 - 1 + math.log(2))


def test_the_divergence_counts_in_the_loss_or_in_the_reward_to_go():
    settings = Algorithm(kl_coefficient=0.5, kl_estimator="k1", kl_in="reward")
    # Log-ratios to the reference: 1, 2 and, in another response, 4; to go: 3, 2 and 4. Advantages 1 − half of that.
    tokens = make_tokens(values(0, 0, 0), values(0, 0, 0), values(1, 1, 1), lengths=[2, 1])
    loss, sums = objective(tokens, values(0, 0, 0), values(-1, -2, -4), settings, Totals(3, 2, 1), corrected=False)
    assert loss.item() == pytest.approx(-(-0.5 + 0.0 - 1.0) / 3)
    assert sums["reference_kl"].item() == pytest.approx(7)
    in_loss = Algorithm(kl_coefficient=0.5, kl_estimator="k2")
    loss, _ = objective(tokens, values(0, 0, 0), values(-1, -2, -4), in_loss, Totals(3, 2, 1), corrected=False)
    assert loss.item() == pytest.approx(-1 + 0.5 * (0.5 + 2 + 8) / 3)


def test_the_entropy_bonus_lowers_the_loss():
    entropy = values(2.0, 4.0).requires_grad_()
    settings = Algorithm(entropy_coefficient=0.1)
    tokens = make_tokens(values(0, 0), values(0, 0), values(0, 0))
    loss, _ = objective(tokens, entropy, None, settings, Totals(2, 1, 1), corrected=False)
    loss.backward()
    assert loss.item() == pytest.approx(-0.3)
    torch.testing.assert_close(entropy.grad, values(-0.05, -0.05))


def test_the_sampler_is_corrected_for_whenever_it_can_be_another_policy():
    def differs(**tables):
        return can_differ(parse_job({"model": "m", "total_steps": 1, "data": {"train": ["x"]}} | tables))

    assert not differs(learner={"dtype": "float32"}, rollout={"engine": "hf"})
    assert differs(learner={"dtype": "bfloat16"}) and differs(rollout={"dtype": "bfloat16"})
    assert differs(rollout={"engine": "vllm"})


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ({"kl_coefficient": 0.1, "kl_estimator": "k1"}, 'expected kl_in = "reward"'),
        ({"advantage": "pass_at_k", "pass_k": 9}, "more than the 8 completions"),
        ({"importance_floor": 0.9, "importance_cap": 0.5}, "above importance_cap 0.5"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(algorithm, said):
    with pytest.raises(BadJob, match=said):
        parse_job({"model": "m", "total_steps": 1, "data": {"train": ["x"]}, "algorithm": algorithm})


def test_mismatch_is_worked_by_hand():
    found = mismatch(log(0.5, 0.2), log(0.25, 0.2))  # Δ = ln 2 and 0
    torch.testing.assert_close(found["mismatch_abs"], values(math.log(2), 0))
    torch.testing.assert_close(found["mismatch_k3"], values(2 - 1 - math.log(2), 0))


def test_an_impossible_token_of_the_rollout_gives_a_finite_loss():
    loss, _ = policy_loss(values(0.0), values(-1e9), values(-1.0), PAPER)
    assert loss.item() == pytest.approx(3.0)
