import random

import pytest

from services.monitor.history.diagnostics import At, Curve, Curves, diagnose


def line(values: list[float]) -> Curve:
    return [At(step, value) for step, value in enumerate(values, start=1)]


def sentences(**by_name: dict[str, Curve]) -> list[tuple[str, str]]:
    named = {name.replace("__", "/"): curves for name, curves in by_name.items()}
    return [(finding.rule, finding.sentence) for finding in diagnose(Curves(named))]


def test_nothing_is_said_before_a_window_is_full() -> None:
    assert sentences(zero_variance={"chart": line([1.0] * 19)}) == []


def test_variance_collapse_names_the_share_and_the_step_it_began() -> None:
    found = sentences(zero_variance={"chart": line([0.1] * 39 + [0.92] * 30), "math": line([0.5] * 69)})
    assert [rule for rule, _ in found] == ["variance-collapse"]
    assert found[0][1].startswith("chart: 92% of groups have zero variance since step 40")


def test_a_part_that_dominates_is_named() -> None:
    found = sentences(format_only={"boxes": line([0.6] * 25)})
    assert found[0][0] == "format-dominates"
    assert "60%" in found[0][1]


@pytest.mark.parametrize(("right", "rules"), [([10.0] * 50, ["wrong-length"]), ([10.0] * 30 + [20.0] * 20, [])])
def test_wrong_answers_that_grow_alone_are_a_sign(right: list[float], rules: list[str]) -> None:
    wrong = [10.0] * 30 + [18.0] * 20
    found = sentences(response_length_wrong={"math": line(wrong)}, response_length_correct={"math": line(right)})
    assert [rule for rule, _ in found] == rules


def test_entropy_and_gradient_norms_are_of_the_run() -> None:
    entropy = {"": line([2.0] * 25 + [0.2] * 25)}
    norms = {"": line([1.0] * 40 + [30.0] * 5)}
    found = sentences(learner__entropy=entropy, learner__grad_norm__vit=norms)
    assert [rule for rule, _ in found] == ["entropy-collapse", "gradient-jump"]
    assert "10%" in found[0][1] and "30 times" in found[1][1]


def test_a_source_that_gets_no_groups_is_starved() -> None:
    everything = line([8.0] * 60)
    found = sentences(groups={"": everything, "chart": line([4.0] * 40), "math": everything})
    assert [(rule, text.split(":")[0]) for rule, text in found] == [("starved", "chart")]


def test_a_fall_is_told_before_a_plateau_and_a_rise_is_not() -> None:
    rising = [step / 100 for step in range(80)]
    fallen = [0.2] * 20 + [0.6] * 20 + [0.3] * 40
    found = sentences(reward={"up": line(rising), "flat": line([0.4] * 80), "down": line(fallen)})
    assert [rule for rule, _ in found] == ["fall", "plateau"]
    assert "from 0.60" in found[0][1]


def test_noise_is_no_fall_and_a_solved_source_no_plateau() -> None:
    rng = random.Random(0)
    noisy = [min(1.0, max(0.0, rng.gauss(0.5, 0.25))) for _ in range(200)]
    found = sentences(reward={"noisy": line(noisy), "solved": line([0.99] * 100)})
    assert "fall" not in [rule for rule, _ in found]
    assert not [text for _, text in found if text.startswith("solved")]
