import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.history.facts import Answer, GroupFacts, count_words, facts_of, is_correct, reflects
from services.monitor.history.series import ALL, Placed, Where, values_by_set
from shared.messages import Reward, RewardSpec
from tests.monitor.runs import group

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "train_cases.json").read_text())


def facts(answers: list[Answer], verifier: str = "mathverify") -> GroupFacts:
    return GroupFacts(verifier, answers, 4, 0, 0.0, 0.0, 0.0, 0.0)


def answer(
    text: str,
    final: float | None,
    accuracy: float,
    form: float,
    length: int = 3,
    limit: int = 8,
    parts: dict[str, float] | None = None,
) -> Answer:
    return Answer(length, length == limit, final, accuracy, form, accuracy == 1.0, count_words(text), parts or {})


def golden_groups(case: dict[str, Any]) -> list[Placed]:
    """The case's rows as groups; its `correct` is V-Triune's for every verifier: accuracy exactly 1."""
    placed = []
    for row, length in zip(case["result_dicts"], case["response_lengths"], strict=True):
        parts = {name.removesuffix("_reward"): row[name] for name in row if name.endswith("_reward")}
        one = answer(
            row["response"],
            row["final_reward"],
            row["accuracy_reward"],
            row["format_reward"],
            length,
            case["max_response_length"],
            parts,
        )
        source = row["data_source"].replace("/", "_")
        placed.append(Placed(source, source, facts([one])))
    return placed


@pytest.mark.parametrize("source", ["mm_math", "v3det_train"])
def test_values_of_a_source_agree_with_v_triune(source: str) -> None:
    case = GOLDEN["data_metrics"]
    wanted = case["metrics"]
    ours = values_by_set(golden_groups(case))[Where(source=source)]
    for name in ("final", "accuracy", "format"):
        mine = ours["reward" if name == "final" else name]
        assert mine == pytest.approx(wanted[f"rews_{name}_reward/{source}"], abs=1e-6)
    lengths = f"response_length_{source}"
    pairs = {
        "response_length": "mean_length",
        "truncation": "length_clip_ratio",
        "response_length_correct": "mean_correct_length",
        "truncation_correct": "length_correct_clip_ratio",
        "response_length_wrong": "mean_wrong_length",
        "truncation_wrong": "length_wrong_clip_ratio",
    }
    for mine, theirs in pairs.items():
        assert ours[mine] == pytest.approx(wanted[f"{lengths}/{theirs}"], abs=1e-6)


def test_detection_parts_agree_with_v_triune() -> None:
    case = GOLDEN["data_metrics"]
    ours = values_by_set(golden_groups(case))[ALL]
    for part in ("report_iou_50_label_match_pure", "pure_map_score"):
        assert ours[f"part/{part}"] == pytest.approx(case["metrics"][f"rews/{part}_reward"])


@pytest.mark.parametrize("case", GOLDEN["reflection"]["cases"])
def test_reflection_agrees_with_v_triune_where_both_are_defined(case: dict[str, Any]) -> None:
    answers = [answer(t, float(c), float(c), 1.0) for t, c in zip(case["texts"], case["is_correct"], strict=True)]
    ours = values_by_set([Placed("src", "src", facts(answers))])[ALL]
    names = {
        "reflection": "reflection_ratio",
        "reflection_correct": "reflection_ratio_in_correct_answers",
        "reflection_wrong": "reflection_ratio_in_incorrect_answers",
        "correct_with_reflection": "correct_ratio_in_reflection_texts",
        "correct_without_reflection": "correct_ratio_in_no_reflection_texts",
    }
    for mine, theirs in names.items():
        # Over an empty selection V-Triune writes 0, we have no point.
        assert ours.get(mine, 0.0) == pytest.approx(case["out"][f"reflection_ratios_src/{theirs}"])
    for word in GOLDEN["reflection"]["words"]:
        assert ours.get(f"reflection_words/{word}", 0) == case["out"][f"reflection_words_src/{word}"]


def test_a_verifier_error_is_no_zero_and_is_counted() -> None:
    ours = values_by_set([Placed("sums", "math", facts_of([group(0, (1.0, None))])[0])])[ALL]
    assert ours["reward"] == 1.0
    assert ours["error_rate"] == 0.5
    assert "zero_variance" not in ours  # one judged answer has no spread


def test_a_group_whose_rewards_differ_in_format_alone_is_told_apart() -> None:
    answers = [answer("", 0.0, 0.0, 0.0), answer("", 0.1, 0.0, 1.0)]
    ours = values_by_set([Placed("sums", "math", facts(answers))])[ALL]
    assert (ours["format_only"], ours["zero_variance"]) == (1.0, 0.0)
    assert ours["reward_std"] == pytest.approx(0.05)


def test_detection_is_correct_at_the_fixed_iou_of_a_half() -> None:
    def reward(precision: float, recall: float) -> Reward:
        parts = {"report_iou_50_label_match_precision_reward": precision, "report_iou_50_label_match_recall": recall}
        return Reward(status="ok", accuracy=0.3, parts=parts)

    assert is_correct("detection", reward(1.0, 1.0))
    assert not is_correct("detection", reward(1.0, 0.5))
    assert not is_correct("mathverify", reward(1.0, 1.0))
    assert not is_correct("mathverify", Reward(status="verifier-error", accuracy=1.0))


def test_sets_are_each_source_each_task_and_all() -> None:
    def placed(source: str, task: str, reward: float) -> Placed:
        spec = RewardSpec(verifier="mathverify", answer="4", ground_truth="4")
        return Placed(source, task, facts_of([group(0, (reward, reward), spec=spec)])[0], staleness=int(reward))

    ours = values_by_set(
        [placed("sums", "math", 1.0), placed("shapes", "math", 0.0), placed("boxes", "detection", 0.0)]
    )
    assert ours[Where(task="math")]["reward"] == 0.5
    assert ours[Where(source="sums")]["reward"] == 1.0
    assert ours[ALL]["reward"] == pytest.approx(1 / 3)
    assert ours[ALL]["staleness_max"] == 1
    assert ours[ALL]["wait/queue"] == 1.0
    assert ours[ALL]["wait/generate"] == 2.0
    assert ours[ALL]["wait/transit"] == 0.5


@given(
    st.lists(
        st.lists(st.sampled_from(["wait", "WAIT", "re", "-", "check", " again", "İ", "\u212a", "ye", "t", "\n"])).map(
            "".join
        )
    )
)
def test_the_look_for_any_word_finds_every_text_that_has_one(texts: list[str]) -> None:
    assert all(found or not count_words(text) for text, found in zip(texts, reflects(texts), strict=True))
    assert reflects(["an angle of 60", "Re-Examine it"]) == [False, True]
