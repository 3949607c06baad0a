import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.values.answers import answers_of
from services.monitor.values.facts import facts_of, join_facts
from services.monitor.values.series import error_rates, values_by_set
from services.monitor.values.where import ALL, Where
from services.monitor.values.words import REFLECTION_WORDS, count_words, words_of
from shared.messages import Reward, RewardSpec, Scored
from tests.monitor import plain
from tests.monitor.runs import group

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "train_cases.json").read_text())


def values(groups: Sequence[Scored], staleness: Sequence[int] | None = None) -> dict[Where, dict[str, float]]:
    return values_by_set(facts_of(answers_of(groups), staleness))


def judged(
    text: str, final: float, accuracy: float, form: float, *, length: int = 3, parts: Mapping[str, float] | None = None
) -> tuple[str, int, Reward]:
    return text, length, Reward(status="ok", final=final, accuracy=accuracy, format=form, parts=dict(parts or {}))


def one(answers: Sequence[tuple[str, int, Reward]], source: str = "sums", task: str = "math") -> Scored:
    """A group of these answers: text, length in tokens (8 is the limit), verdict."""
    texts, lengths, rewards = zip(*answers, strict=True)
    made = group(0, [1.0] * len(answers), source=source, task=task, texts=texts, lengths=lengths)
    return msgspec.structs.replace(made, rewards=list(rewards))


def golden_groups(case: dict[str, Any]) -> list[Scored]:
    """The case's rows as groups; its `correct` is V-Triune's for every verifier: accuracy exactly 1."""
    groups = []
    for row, length in zip(case["result_dicts"], case["response_lengths"], strict=True):
        parts = {name: row[name] for name in row if name.endswith("_reward")}
        numbers = row["final_reward"], row["accuracy_reward"], row["format_reward"]
        answer = judged(row["response"], *numbers, length=length, parts=parts)
        source = row["data_source"].replace("/", "_")
        groups.append(_cut(one([answer], source, source), length == case["max_response_length"]))
    return groups


def _cut(scored: Scored, is_cut: bool) -> Scored:
    finish = "length" if is_cut else "stop"
    completions = [msgspec.structs.replace(completion, finish=finish) for completion in scored.group.completions]
    return msgspec.structs.replace(scored, group=msgspec.structs.replace(scored.group, completions=completions))


@pytest.mark.parametrize("source", ["mm_math", "v3det_train"])
def test_values_of_a_source_agree_with_v_triune(source: str) -> None:
    case = GOLDEN["data_metrics"]
    wanted = case["metrics"]
    ours = values(golden_groups(case))[Where(source=source)]
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
    ours = values(golden_groups(case))[ALL]
    for part in ("report_iou_50_label_match_pure", "pure_map_score"):
        assert ours[f"part/{part}"] == pytest.approx(case["metrics"][f"rews/{part}_reward"])


@pytest.mark.parametrize("case", GOLDEN["reflection"]["cases"])
def test_reflection_agrees_with_v_triune_where_both_are_defined(case: dict[str, Any]) -> None:
    answers = [judged(t, float(c), float(c), 1.0) for t, c in zip(case["texts"], case["is_correct"], strict=True)]
    ours = values([one(answers)])[ALL]
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
    ours = values([group(0, (1.0, None))])[ALL]
    assert ours["reward"] == 1.0
    assert ours["error_rate"] == 0.5
    assert "zero_variance" not in ours  # one judged answer has no spread


def test_a_group_whose_rewards_differ_in_format_alone_is_told_apart() -> None:
    ours = values([one([judged("", 0.0, 0.0, 0.0), judged("", 0.1, 0.0, 1.0)])])[ALL]
    assert (ours["format_only"], ours["zero_variance"]) == (1.0, 0.0)
    assert ours["reward_std"] == pytest.approx(0.05)


def test_detection_is_correct_at_the_fixed_iou_of_a_half() -> None:
    def correct(verifier: str, *rewards: Reward) -> list[bool]:
        spec = RewardSpec(verifier=verifier, answer="4", ground_truth="4")
        made = group(0, [1.0] * len(rewards), spec=spec)
        return answers_of([msgspec.structs.replace(made, rewards=list(rewards))]).correct.tolist()

    def reward(precision: float, recall: float) -> Reward:
        parts = {"report_iou_50_label_match_precision_reward": precision, "report_iou_50_label_match_recall": recall}
        return Reward(status="ok", accuracy=0.3, parts=parts)

    failed = Reward(status="verifier-error", accuracy=1.0, parts=reward(1.0, 1.0).parts)
    assert correct("detection", reward(1.0, 1.0), reward(1.0, 0.5), failed) == [True, False, False]
    assert correct("iou", Reward(status="ok", accuracy=0.5), Reward(status="ok", parts={"iou_reward": 0.4})) == [1, 0]
    assert correct("mathverify", reward(1.0, 1.0), failed, Reward(status="ok", accuracy=1.0)) == [False, False, True]


def test_sets_are_each_source_each_task_and_all() -> None:
    ours = values(
        [
            group(0, (1.0, 1.0)),
            group(1, (0.0, 0.0), source="shapes"),
            group(2, (0.0, 0.0), source="boxes", task="detection"),
        ],
        staleness=[1, 0, 0],
    )
    assert ours[Where(task="math")]["reward"] == 0.5
    assert ours[Where(source="sums")]["reward"] == 1.0
    assert ours[ALL]["reward"] == pytest.approx(1 / 3)
    assert ours[ALL]["staleness_max"] == 1
    assert ours[ALL]["wait/queue"] == 1.0
    assert ours[ALL]["wait/generate"] == 2.0
    assert ours[ALL]["wait/transit"] == 0.5


def drawn(seed: int) -> list[Scored]:
    """Groups of one to five answers of all sorts: verdicts and none, parts, words, boxes, tags, members."""
    draw, groups = random.Random(seed), []
    for ordinal in range(draw.randint(0, 12)):
        source, verifier = draw.choice(["sums", "shapes", "boxes"]), draw.choice(["mathverify", "detection", "iou"])
        members = {"verifiers": [{"name": "anls", "weight": 3.0}, {"name": "numeric"}]}
        spec = RewardSpec(
            verifier=draw.choice([verifier, "composite"]), answer="4",
            ground_truth=f"<answer>{draw.randint(0, 2)}</answer>",
            accuracy_ratio=draw.choice([1.0, 0.0]), format_ratio=draw.choice([0.0, 0.1, 1.0]), params=members,
        )  # fmt: skip
        answers = [_drawn_answer(draw) for _ in range(draw.randint(1, 5))]
        made = group(
            ordinal, [1.0] * len(answers), source=source, task=draw.choice(["math", source]), spec=spec,
            texts=[text for text, _, _ in answers], lengths=[length for _, length, _ in answers],
        )  # fmt: skip
        groups.append(msgspec.structs.replace(made, rewards=[reward for _, _, reward in answers]))
    return groups


def _drawn_answer(draw: random.Random) -> tuple[str, int, Reward]:
    text = draw.choice(
        ["so 4", "wait, re-check it: \\boxed{4}", "Think again", "<answer>1</answer>", "<answer>2</answer>"]
    )
    names = ["audit", "iou_reward", "anls.accuracy", "report_iou_50_label_match_precision_reward", "pure_reward"]
    parts = {name: draw.choice([0.0, 1.0, draw.random(), float("nan")]) for name in names if draw.random() < 0.5}
    if draw.random() < 0.2:
        return text, draw.randint(0, 8), Reward(status="verifier-error", error="it broke")
    final, accuracy, form = (draw.choice([0.0, 0.5, 1.0, draw.random()]) for _ in range(3))
    return text, draw.randint(0, 8), Reward(status="ok", final=final, accuracy=accuracy, format=form, parts=parts)


@given(st.integers(0, 10**9), st.integers(0, 12))
def test_values_by_column_are_those_of_the_plain_definition(seed: int, cut: int) -> None:
    groups = drawn(seed)
    staleness = [ordinal % 3 for ordinal in range(len(groups))]
    facts = join_facts(
        [facts_of(answers_of(groups[:cut]), staleness[:cut]), facts_of(answers_of(groups[cut:]), staleness[cut:])]
    )
    ours, theirs = values_by_set(facts), plain.values_by_set(groups, staleness)
    assert ours.keys() == theirs.keys()
    for where, named in theirs.items():
        assert ours[where] == pytest.approx(named, rel=1e-9, abs=1e-12)
    assert error_rates(facts) == pytest.approx(plain.error_rates(groups))


_PIECES = [
    "wait",
    "WAIT",
    "re",
    "-",
    "\r",
    " ",
    "check",
    "evaluat",
    "ion",
    "e",
    " again",
    "İ",
    "\u212a",
    "ye",
    "t",
    "\n",
    "π",
    "thin",
]


@given(st.lists(st.lists(st.sampled_from([*_PIECES, *REFLECTION_WORDS])).map("".join)))
def test_words_of_many_texts_are_counted_as_those_of_each(texts: list[str]) -> None:
    column = pa.array(["before", *texts], pa.string())
    assert words_of(column.slice(1)) == [count_words(text) for text in texts]
    assert words_of(pa.array(["an angle of 60", "Re-Examine it", "chec\u212a again, wa", "it"])) == [
        {}, {"re-examine": 1}, {"check again": 1}, {},
    ]  # fmt: skip


def test_words_are_found_wherever_the_texts_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["so wait, re-check it", "yet verify", "x" * 30 + "think again"] * 3
    for size in range(1, 12):
        monkeypatch.setattr("services.monitor.values.words._BLOCK", size)
        assert words_of(pa.array(texts, pa.string())) == [count_words(text) for text in texts]
