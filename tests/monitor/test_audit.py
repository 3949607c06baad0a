"""Signs that a source learns its reward rather than its task, worked by hand."""

import random

import pytest

from services.monitor.analysis.audit import audit
from services.monitor.analysis.diagnostics import At, Curve, Curves
from services.monitor.values.answers import answers_of
from services.monitor.values.facts import facts_of, said, weights_of
from services.monitor.values.series import values_by_set
from services.monitor.values.where import ALL, Where
from shared.messages import Reward, RewardSpec, Scored
from tests.reward.groups import group


def line(values: list[float]) -> Curve:
    return [At(step, value) for step, value in enumerate(values, start=1)]


def signs(**by_name: list[float]) -> list[tuple[str, str]]:
    named = {name.replace("__", "/"): {"chart": line(values)} for name, values in by_name.items()}
    return [(finding.rule, finding.sentence) for finding in audit(Curves(named))]


def values(scored: list[Scored]) -> dict[Where, dict[str, float]]:
    return values_by_set(facts_of(answers_of(scored)))


def scored(texts: list[str], rewards: list[Reward], truth: str = "", **ratios: float) -> Scored:
    one = group(texts, reward=RewardSpec(verifier="exact", answer="", ground_truth=truth, **ratios))
    return Scored(group=one, rewards=rewards, replica="r", started_at=0.0, finished_at=1.0)


def reward(accuracy: float, form: float) -> Reward:
    return Reward(status="ok", final=0.75 * accuracy + 0.25 * form, accuracy=accuracy, format=form)


def test_the_share_of_a_part_is_its_covariance_with_the_reward() -> None:
    # rewards 1, 0.75, 0: mean 7/12; accuracy 1, 1, 0 at 3/4, format 1, 0, 0 at 1/4
    verdicts = [reward(1.0, 1.0), reward(1.0, 0.0), reward(0.0, 0.0)]
    found = values([scored([""] * 3, verdicts, accuracy_ratio=0.75, format_ratio=0.25)])[ALL]
    variance = 1.5625 - 3 * (7 / 12) ** 2
    assert found["component/accuracy"] == pytest.approx(0.4375 / variance)
    assert found["component/format"] == pytest.approx((0.25 - 0.25 * 7 / 12) / variance)
    assert found["component/accuracy"] + found["component/format"] == pytest.approx(1.0)
    assert "component/accuracy" not in values([scored([""] * 3, [reward(1.0, 1.0)] * 3)])[ALL]


def test_a_composite_s_members_make_up_its_accuracy() -> None:
    members = [{"name": "anls", "weight": 3.0}, {"name": "numeric"}]
    spec = RewardSpec(
        verifier="composite", answer="", ground_truth="", accuracy_ratio=1.0, format_ratio=1.0,
        params={"verifiers": members},
    )  # fmt: skip
    assert weights_of(spec) == {"accuracy": 0.5, "format": 0.5, "anls": 0.375, "numeric": 0.125}


def test_answers_are_alike_beyond_their_truths_where_one_answer_is_given_to_all() -> None:
    def source(answers: list[str], truths: list[str]) -> dict[str, float]:
        groups = [
            scored([f"<answer>{one}</answer>"] * 2, [reward(1.0, 1.0)] * 2, f"<answer>{truth}</answer>")
            for one, truth in zip(answers, truths, strict=True)
        ]
        return {name: value for name, value in values(groups)[ALL].items() if name.endswith("_alike")}

    truths = ["a", "b", "a", "c"]  # one of six pairs
    assert source(truths, truths) == pytest.approx({"answers_alike": 1 / 6, "truths_alike": 1 / 6})
    assert source(["b"] * 4, truths) == pytest.approx({"answers_alike": 1.0, "truths_alike": 1 / 6})
    assert source(["a"], ["a"]) == {}


def test_what_is_said_is_the_last_answer_white_space_and_case_aside() -> None:
    assert said("<think>x</think><answer>\nA  cat\n</answer>") == said("<answer>a cat</answer>") != said("a cat")
    assert said("so \\boxed{4}") == said("\\boxed{4}") and said("nothing") == 0


def test_the_series_of_a_step_are_by_source_and_added_up() -> None:
    rewards = [
        Reward(status="ok", final=1.0, accuracy=1.0, format=0.0, parts={"audit": 0.25}),
        Reward(status="ok", final=0.0),
    ]
    one = group(["\\boxed{4}", "\\boxed{5}"])
    both = [Scored(group=one, rewards=rewards, replica="r", started_at=0.0, finished_at=1.0)] * 2
    found = values(both)
    for where in (Where(source="mm_math"), ALL):
        assert found[where]["component/accuracy"] == 1.0 and found[where]["component/format"] == 0.0
        assert found[where]["audit/accuracy"] == 0.25 and found[where]["audit/gap"] == 0.75
        assert found[where]["answers_alike"] == 0.5 and found[where]["truths_alike"] == 1.0


def test_each_sign_is_told_at_its_bound_and_not_below_it() -> None:
    assert signs(component__format=[0.1] * 20 + [0.62] * 20)[0][1].startswith("chart: audit: 62% of what tells")
    assert signs(component__format=[0.62] * 20 + [0.49] * 20) == []
    longer = [10.0] * 20 + [17.0] * 20
    assert "1.70 times the length" in signs(response_length=longer, accuracy=[0.5] * 40)[0][1]
    assert signs(response_length=longer, accuracy=[0.5] * 20 + [0.6] * 20) == []
    assert [rule for rule, _ in signs(response_length=[17.0] * 20 + [10.0] * 20, accuracy=[0.5] * 40)] == [
        "audit-length"
    ]
    rising = [0.4] * 20 + [0.7] * 20
    assert "by +0.30 in training and by +0.05" in signs(reward=rising, eval__reward=[0.4, 0.45])[0][1]
    assert signs(reward=rising, eval__reward=[0.4, 0.65]) == []
    assert "finds 0.15 less" in signs(audit__gap=[0.15] * 20)[0][1]
    assert signs(audit__gap=[0.15] * 19) == []
    told = signs(answers_alike=[0.55] * 20, truths_alike=[0.12] * 20)
    assert told[0][0] == "audit-alike" and "55% of pairs" in told[0][1] and "12%" in told[0][1]
    assert signs(answers_alike=[0.25] * 20, truths_alike=[0.12] * 20) == []


def test_a_noisy_gap_is_no_sign() -> None:
    draw = random.Random(1)
    assert signs(audit__gap=[draw.choice((-0.9, 1.0)) for _ in range(20)]) == []
