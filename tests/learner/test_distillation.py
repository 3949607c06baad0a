"""A teacher in the loss: numbers by hand, and a policy that comes to it."""

import math

import msgspec
import numpy as np
import pytest
import torch

from services.learner.algorithms.objective import Distilled
from services.learner.attention.batch import Part, pack
from services.learner.policy.model import Images
from shared.errors import BadSample
from shared.messages import pack_floats

JOB = {"distillation": {"model": "large", "coefficient": 1.0}}


def test_a_token_is_drawn_to_the_teacher_by_their_log_ratio():
    # λ·(−1 + 3)²/2 = 1 at λ = 0.5; the second token has no teacher.
    log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)
    losses, sums = Distilled(torch.tensor([-3.0, math.nan]), 0.5).losses(log_probs)
    losses.sum().backward()
    assert losses.tolist() == [1.0, 0.0]
    assert log_probs.grad.tolist() == [1.0, 0.0]  # λ·2
    assert (sums["teacher_kl"].item(), sums["teacher_known"].item()) == (2.0, 1)


def test_on_samples_of_the_policy_its_gradient_is_that_of_the_reverse_kl():
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([1.0, 0.5, -0.5, 0.2], dtype=torch.float64).log_softmax(-1)
    logs = logits.log_softmax(-1)
    losses, _ = Distilled(teacher, 1.0).losses(logs)  # one of each token, weighed by how often it is sampled
    (sampled,) = torch.autograd.grad((logs.exp().detach() * losses).sum(), logits, retain_graph=True)
    (exact,) = torch.autograd.grad((logs.exp() * (logs - teacher)).sum(), logits)
    torch.testing.assert_close(sampled, exact)


def taught(learner, make_group, teacher, ordinal=1, **shape):
    scored, images = make_group(ordinal, **({"lengths": (4, 6), "rewards": [0.5, 0.5]} | shape))
    return learner.ingest(msgspec.structs.replace(scored, teacher=teacher), images)


def log_probs(learner, group) -> np.ndarray:
    row = pack([Part(group, group.responses)], image_token_id=learner.inputs.image_token_id)
    (image,) = group.images
    images = Images({}, {image.name: learner.pixels.get(image)})
    with torch.no_grad():
        return learner.model.token_values(row, images, 1.0).log_probs.numpy()


def test_a_policy_comes_to_its_teacher_also_where_all_rewards_are_equal(make_engine, make_group):
    learner = make_engine(**JOB, optimizer={"learning_rate": 3e-3})
    one = [pack_floats([-2.0] * 4), pack_floats([-1.5] * 6)]
    group = taught(learner, make_group, one)
    assert group.uniform
    wanted = np.array([-2.0] * 4 + [-1.5] * 6)
    before = np.abs(log_probs(learner, group) - wanted).mean()
    metrics = [learner.step([group], number).metrics for number in range(1, 9)]
    assert np.abs(log_probs(learner, group) - wanted).mean() < 0.5 * before
    assert metrics[0]["teacher_kl"] == pytest.approx((log_probs(make_engine(**JOB), group) - wanted).mean(), abs=1e-4)
    assert metrics[0]["teacher_known"] == 1.0


def test_a_completion_without_a_teacher_has_no_part_in_the_term(make_engine, make_group):
    learner, other = make_engine(**JOB), make_engine(**JOB)
    known = pack_floats([-2.0] * 4)
    metrics = learner.step([taught(learner, make_group, [known, b""])]).metrics
    assert metrics["teacher_known"] == pytest.approx(0.4)
    whole = other.step([taught(other, make_group, [known, pack_floats([-2.0] * 6)])]).metrics
    assert metrics["grad_norm"] > 0 and metrics["loss"] < whole["loss"]


@pytest.mark.parametrize("budget", [10_000, 1])
def test_a_step_with_a_teacher_does_not_depend_on_how_it_is_cut(make_engine, make_group, budget):
    learner = make_engine(**JOB, learner={"tokens_per_batch": budget})
    groups = [
        taught(learner, make_group, [pack_floats([-2.0] * 4), b""], ordinal, rewards=[1.0, 0.0]) for ordinal in (1, 2)
    ]
    metrics = learner.step(groups, importance=True).metrics
    whole = make_engine(**JOB)
    assert metrics["loss"] == pytest.approx(whole.step(groups, importance=True).metrics["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        ([], "the group has 0 of a teacher"),
        ([pack_floats([-1.0] * 3), b""], "3 log-probs of a teacher"),
        ([pack_floats([math.nan] * 4), b""], "expected one a token, finite"),
    ],
)
def test_log_probs_that_are_none_void_the_group(make_engine, make_group, teacher, sentence):
    with pytest.raises(BadSample, match=sentence):
        taught(make_engine(**JOB), make_group, teacher)


def test_a_job_without_a_teacher_takes_none(make_engine, make_group):
    with pytest.raises(BadSample, match=r"the group has 2 of a teacher; expected those of distillation.model"):
        taught(make_engine(), make_group, [b"", b""])
