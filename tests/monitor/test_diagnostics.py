import random
import re
from pathlib import Path

import pytest

from services.monitor.analysis.advice import RULES, Line, Settings, advise, standstill
from services.monitor.analysis.diagnostics import At, Curve, Curves, diagnose


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


def test_an_evaluation_of_which_nothing_could_be_judged_is_told_until_one_could() -> None:
    exams = {"": [At(0, 3.0), At(2, 3.0)]}
    assert sentences(eval__void=exams) == [("held-out", "none of 3 held-out samples could be judged")]
    assert sentences(eval__void=exams, eval__groups={"": [At(2, 5.0)]}) == []  # five of eight were
    assert sentences(eval__void=exams, eval__groups={"": [At(4, 8.0)]}) == []


def test_noise_is_no_fall_and_a_solved_source_no_plateau() -> None:
    rng = random.Random(0)
    noisy = [min(1.0, max(0.0, rng.gauss(0.5, 0.25))) for _ in range(200)]
    found = sentences(reward={"noisy": line(noisy), "solved": line([0.99] * 100)})
    assert "fall" not in [rule for rule, _ in found]
    assert not [text for _, text in found if text.startswith("solved")]


ON_POLICY = Settings(0, {})


def advice(settings: Settings = ON_POLICY, **by_name: dict[str, Curve]) -> list[Line]:
    curves = Curves({name.replace("__", "/"): named for name, named in by_name.items()})
    return advise(diagnose(curves), curves, settings)


def test_a_rule_is_one_line_however_many_sources_it_is_about() -> None:
    names = [f"s{k}" for k in range(7)]
    truncation = {name: line([1.0] * 25) for name in names} | {"other": line([0.0] * 25)}
    groups = {name: line([1.0] * 25) for name in (*names, "other")} | {"": line([8.0] * 25)}
    (found,) = advice(truncation=truncation, groups=groups)
    assert found.sentence == "completions are cut at the length limit: 7 of 8 sources"
    assert [one.source for one in found.findings] == names
    assert found.cost == 7 / 8
    assert found.changes == {}


def test_the_dearest_line_comes_first_and_notes_last() -> None:
    lines = advice(
        truncation={"small": line([1.0] * 25)},
        zero_variance={"large": line([1.0] * 25)},
        staleness={"small": line([3.0] * 25), "": line([1.0] * 25)},
        groups={"small": line([1.0] * 25), "large": line([3.0] * 25), "": line([4.0] * 25)},
    )
    assert [(one.rule, one.cost) for one in lines] == [
        ("variance-collapse", 0.75),
        ("truncation", 0.25),
        ("stale", 0.25),
    ]


def test_a_line_brings_the_change_that_may_help() -> None:
    settings = Settings(2, {"chart": 0.5})
    stale = {"chart": line([3.0] * 25), "": line([1.0] * 25)}
    lines = advice(settings, zero_variance={"chart": line([1.0] * 25), "math": line([0.1] * 25)}, staleness=stale)
    assert [one.changes for one in lines] == [{"sources.chart.weight": 0.25}, {"max_staleness": 1}]
    assert advice(ON_POLICY, staleness=stale)[0].changes == {}
    assert advice(zero_variance={"chart": line([1.0] * 25)})[0].changes == {}, "no other source would gain"


def test_every_rule_has_its_advice() -> None:
    page = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()
    assert set(re.findall(r"^\| ([a-z]+-?[a-z]*) \|", page, re.MULTILINE)) - {"rule"} == {*RULES, "no-progress"}


def test_a_job_that_makes_no_step_is_told_after_five_steps_length_and_two_minutes() -> None:
    ends = [1000.0 + 60 * k for k in range(10)]  # a step a minute, the last one at 1540
    assert standstill(ends, 0.0, 1540.0 + 299) == []
    (found,) = standstill(ends, 0.0, 1540.0 + 301)
    assert found.sentence == "no step for 5 min, where one takes 60.0 s"
    assert standstill([], 1000.0, 1119.0) == []
    assert standstill([], 1000.0, 1180.1)[0].sentence == "no step for 3 min"
