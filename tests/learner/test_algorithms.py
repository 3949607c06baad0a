"""Every algorithm in a real step: it makes the better answer likelier, and a step does not depend on how it is cut."""

import msgspec
import numpy as np
import pytest
import torch

from services.learner.algorithms.step import over_step
from services.learner.attention.batch import parts_of
from services.learner.engines.passes import Passes
from services.learner.engines.team import Alone

CHOICES = [
    {},
    {"advantage": "dr_grpo", "aggregation": "constant"},
    {"advantage": "rloo"},
    {"advantage": "reinforce_baseline"},
    {"advantage": "pass_at_k", "pass_k": 2},
    {"loss": "gspo", "aggregation": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4},
    {"loss": "cispo", "clip_low": 1.0},
    {"loss": "sapo"},
    {"correction": "sequence", "importance_cap": 5.0},
    {"correction": "icepop", "importance_floor": 0.0, "importance_cap": 1e6},
    {"correction": "geometric", "importance_floor": 0.0, "importance_cap": 1e6},
    {"old_policy": "rollout"},
    {"kl_coefficient": 0.01, "kl_estimator": "k3"},
    {"kl_coefficient": 0.01, "kl_estimator": "k2"},
    {"kl_coefficient": 0.01, "kl_estimator": "k1", "kl_in": "reward"},
    {"entropy_coefficient": 1e-3},
]
NAMES = [", ".join(f"{key} {value}" for key, value in choice.items()) or "grpo" for choice in CHOICES]


def likelihoods(learner, groups):
    """Mean log-prob of the first and of the second response of every group."""
    passes = Passes(learner.model, learner.engine._spec, learner.engine._pixels, learner.engine, Alone())
    found = passes._old_log_probs([[part] for part in parts_of(groups, 10_000)])
    return [np.mean([value.mean().item() for (_, index), value in found.items() if index == row]) for row in (0, 1)]


@pytest.mark.parametrize("algorithm", CHOICES, ids=NAMES)
def test_the_better_answer_becomes_likelier(make_engine, make_group, algorithm):
    learner = make_engine(algorithm=algorithm, optimizer={"learning_rate": 1e-3})
    groups = [learner.ingest(*make_group(ordinal, rewards=[1.0, 0.0])) for ordinal in (1, 2)]
    better, worse = likelihoods(learner, groups)
    for number in range(1, 4):
        result = learner.step(over_step(groups, learner.engine._spec.algorithm), number, importance=True)
        assert np.isfinite(result.metrics["loss"]) and result.metrics["grad_norm"] > 0
    after, after_worse = likelihoods(learner, groups)
    assert after - after_worse > better - worse


@pytest.mark.parametrize(
    ("algorithm", "lora_rank"),
    [*((choice, 0) for choice in CHOICES), (CHOICES[0], 4), (CHOICES[12], 4)],
    ids=[*NAMES, "adapters", f"adapters, {NAMES[12]}"],
)
def test_one_that_was_killed_goes_on_to_the_same_bits(make_engine, make_group, tmp_path, algorithm, lora_rank):
    tables = {
        "algorithm": algorithm | {"updates_per_step": 2},
        "learner": {"lora_rank": lora_rank, "tokens_per_batch": 30},
        "optimizer": {"freeze": ["vit", "connector"]},
    }

    def steps(learner, numbers):
        for number in numbers:
            groups = [learner.ingest(*make_group(10 * number + index, rewards=[1.0, 0.0])) for index in (1, 2)]
            learner.step(over_step(groups, learner.engine._spec.algorithm), number, importance=True)
        return learner.weights("trained")

    whole = make_engine(**tables)
    steps(whole, [1])
    whole.save(tmp_path)
    expected, found = steps(whole, [2]), steps(make_engine(tmp_path, **tables), [2])
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("choice", [1, 5, 7, 12, 14], ids=lambda choice: NAMES[choice])
def test_a_step_does_not_depend_on_how_it_is_cut(make_engine, make_group, choice):
    found = []
    for budget in (10_000, 1):
        learner = make_engine(algorithm=CHOICES[choice], learner={"tokens_per_batch": budget})
        groups = [learner.ingest(*make_group(ordinal, lengths=(3, 5, 7), rewards=[1, 0, 0])) for ordinal in (1, 2)]
        found.append((learner.step(groups, importance=True).metrics, learner.weights("trained")))
    assert found[1][0]["loss"] == pytest.approx(found[0][0]["loss"], rel=1e-4, abs=1e-6)
    for name, tensor in found[1][1].items():
        torch.testing.assert_close(tensor, found[0][1][name], atol=2e-4, rtol=0)


def test_the_reference_is_the_first_weights_also_after_a_restart(make_engine, make_group, tmp_path):
    choice = {"kl_coefficient": 1.0}
    learner = make_engine(algorithm=choice)
    groups = [learner.ingest(*make_group(1, rewards=[1, 0]))]
    assert learner.step(groups).metrics["reference_kl"] == pytest.approx(0.0, abs=1e-6)
    learner.save(tmp_path)
    apart = learner.step(groups, 2).metrics["reference_kl"]
    again = make_engine(tmp_path, algorithm=choice).step(groups, 2).metrics["reference_kl"]
    assert apart > 1e-4 and again == apart


def test_the_model_beneath_its_adapters_is_the_reference_and_none_is_held_beside_it(make_engine, make_group):
    tables = {"algorithm": {"kl_coefficient": 0.5}, "optimizer": {"freeze": ["vit", "connector"]}}
    learner = make_engine(learner={"lora_rank": 4}, **tables)
    groups = [learner.ingest(*make_group(1, rewards=[1, 0]))]
    assert learner.engine._first is None
    assert learner.step(groups).metrics["reference_kl"] == pytest.approx(0.0, abs=1e-6)
    apart = learner.step(groups, 2).metrics["reference_kl"]
    beside = make_engine(learner={"lora_rank": 4}, **tables)
    beside.engine._first = make_engine(**tables).model
    beside.step(groups)
    assert beside.step(groups, 2).metrics["reference_kl"] == pytest.approx(apart, rel=1e-4) and apart > 1e-5


def test_a_divergence_moves_a_group_whose_rewards_are_all_equal(make_engine, make_group):
    learner = make_engine(algorithm={"kl_coefficient": 1.0})
    learner.step([learner.ingest(*make_group(1, rewards=[1, 0]))])
    assert learner.step([learner.ingest(*make_group(2, rewards=[1, 1]))], 2).metrics["grad_norm"] > 0


def test_the_mismatch_is_told_by_source(make_engine, make_group):
    learner = make_engine()
    metrics = learner.step([learner.ingest(*make_group(1, rewards=[1, 0]))]).metrics
    (name,) = [name for name in metrics if name.startswith("mismatch_k3/")]
    assert metrics[name] == pytest.approx(metrics["mismatch_k3"]) and not any("measured/" in name for name in metrics)


def test_truncated_completions_have_no_loss_and_count_in_their_group(make_engine, make_group):
    scored, images = make_group(1, rewards=[1.0, 0.0])
    cut = msgspec.structs.replace(scored.group.completions[1], finish="length")
    group = msgspec.structs.replace(scored.group, completions=[scored.group.completions[0], cut])
    scored = msgspec.structs.replace(scored, group=group)
    kept = make_engine().ingest(scored, images)
    masked = make_engine(algorithm={"mask_truncated": True}).ingest(scored, images)
    assert [row.index for row in kept.responses] == [0, 1] and [row.index for row in masked.responses] == [0]
    np.testing.assert_allclose(masked.advantages, kept.advantages)


def test_dynamic_sampling_judges_by_accuracy_unless_told_otherwise(make_engine, make_group):
    scored, images = make_group(1, rewards=[1.0, 0.9])  # equally right, one of them badly formatted
    rewards = [msgspec.structs.replace(one, accuracy=1.0) for one in scored.rewards]
    scored = msgspec.structs.replace(scored, rewards=rewards)
    assert make_engine().ingest(scored, images).droppable
    assert not make_engine(algorithm={"uniform_by": "reward"}).ingest(scored, images).droppable
