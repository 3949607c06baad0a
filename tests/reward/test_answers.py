"""Answers in the forms that public reports name, each with the value that a user needs."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reward.judging.judge import judge
from services.reward.verdict import Sample
from shared.answers.boxes import _plain_list, read_boxes, truth_boxes
from shared.messages import RewardSpec

ANSWER = "<think>\nI look.\n</think>\n<answer>\n{}\n</answer>"
_CAT = "<answer>[{'bbox_2d': [100, 200, 300, 400], 'label': 'cat'}]</answer>"


def _accuracy(verifier: str, completion: str, truth: str, **params: Any) -> float:
    spec = RewardSpec(verifier=verifier, answer="", ground_truth=truth, params=params, options={"dialect": "tolerant"})
    reward = judge(Sample(completion=completion, spec=spec))
    assert reward.ok, reward.error
    return reward.accuracy


@pytest.mark.parametrize(
    ("answer", "truth", "accuracy"),
    [
        ("\\boxed{1728}", "1331 and 1728", 0.0),
        ("\\boxed{5\\sqrt{2}}", "5\\sqrt{2}", 1.0),
        ("\\boxed{2}", "2\\pi", 0.0),
        ("\\boxed{(2, 7]}", "(2, 7]", 1.0),
        ("\\boxed{\\frac12}", "\\dfrac{1}{2}", 1.0),
        ("\\boxed{10:45}", "10:45", 1.0),
        ("\\boxed{2/5}", "12:30", 0.0),
        ("\\boxed{square}", "square", 1.0),
        ("\\boxed{B}", "B", 1.0),
        ("\\boxed{12\\,450}", "\\boxed{12450}", 1.0),
        ("\\boxed{3 1/4}", "\\boxed{3.25}", 1.0),
        ("\\boxed{x<3}", "\\boxed{(-\\infty, 3)}", 1.0),
        ("\\boxed{x<4}", "\\boxed{(-\\infty, 3)}", 0.0),
        ("\\boxed{\\{1, 4, 7\\}}", "\\boxed{\\{6, 4, 1\\}}", 0.0),
        ("\\boxed{\\{1, 4, 6\\}}", "\\boxed{\\{6, 4, 1\\}}", 1.0),
        ("\\boxed{\\frac{1}{2^{98}}}", "\\boxed{\\frac{1}{2^{99}}}", 0.0),
        ("\\boxed{4.123105625617661}", "\\boxed{\\sqrt{17}}", 1.0),
        ("\\boxed{4.12}", "\\boxed{\\sqrt{17}}", 0.0),
        ("\\boxed{0.333333}", "\\boxed{\\frac{1}{3}}", 1.0),
        ("\\boxed{0.3333}", "\\boxed{\\frac{1}{3}}", 0.0),
        ("\\boxed{45°}", "\\boxed{45}", 1.0),
        ("\\boxed{12~\\mathrm{cm}}", "\\boxed{12}", 1.0),
        ("\\boxed{12 m}", "\\boxed{12 cm}", 0.0),
        ("\\boxed{listen}", "\\boxed{silent}", 0.0),
        ("\\boxed{2017}", "\\boxed{2023-05-01}", 0.0),
        ("\\boxed{3.2e5}", "\\boxed{320000}", 1.0),
        ("\\boxed{A}", "\\boxed{a}", 0.0),
        ("\\boxed{B. 12}", "\\boxed{B}", 1.0),
        ("\\boxed{y=3}", "\\boxed{x=3}", 0.0),
        ("\\boxed{2x+1}", "\\boxed{1+2x}", 1.0),
        ("\\fbox{42}", "\\boxed{42}", 1.0),
        ("\\boxed {9}", "\\boxed{9}", 1.0),
        ("So \\boxed{4}.\nNo, recheck: \\boxed{9}", "\\boxed{9}", 1.0),
        ("\\boxed{4} and \\boxed{9}", "\\boxed{4, 9}", 1.0),
        ("\\boxed{2}", "2x", 0.0),  # a letter behind a number is a factor, no unit
        ("\\boxed{2x}", "2", 0.0),
        ("\\boxed{2 x}", "2", 0.0),
        ("\\boxed{2x}", "2y", 0.0),
        ("\\boxed{2m}", "2n", 0.0),
        ("\\boxed{2m}", "2", 0.0),
        ("\\boxed{2ab}", "2bc", 0.0),
        ("\\boxed{2x^2}", "2x^3", 0.0),
        ("\\boxed{2}", "2i", 0.0),
        ("\\boxed{\\frac{1}{2}x}", "\\frac{1}{2}", 0.0),
        ("\\boxed{2ab}", "2ba", 1.0),
        ("\\boxed{12 m}", "12", 1.0),
        ("\\boxed{5cm}", "5", 1.0),
        ("\\boxed{5 apples}", "5", 1.0),
        ("\\boxed{A, B, C, D}", "BD", 0.0),
        ("\\boxed{5 or 6}", "5", 0.0),
        ("\\boxed{2^{3^4}}", "2^{81}", 1.0),
        ("\\boxed{10!}", "3628800", 1.0),
        ("\\boxed{9^{9^{9^9}}}", "7", 0.0),  # nobody computes it: a clear wrong at once, no deadline
        ("\\boxed{1000000000!}", "7", 0.0),
        ("\\boxed{(9^{9})^{9^{9}}}", "7", 0.0),
    ],
)
def test_mathematics(answer: str, truth: str, accuracy: float) -> None:
    assert _accuracy("mathverify", ANSWER.format(answer), truth) == accuracy


@pytest.mark.parametrize(
    ("answer", "truth", "accuracy"),
    [
        ("3 million", "3", 0.0),
        ("3 million", "3000000", 1.0),
        ("5k", "5000", 1.0),
        ("3万", "30000", 1.0),
        ("2 dozen", "24", 1.0),
        ("6.02 \\times 10^{23}", "6.02e23", 1.0),
        ("1.2×10³", "1200", 1.0),
        ("3½", "3.5", 1.0),
        ("12 square meters", "12 m^2", 1.0),
        ("12 m", "12 cm", 0.0),
        ("-$5", "-5", 1.0),
        ("$5", "-5", 0.0),
        ("**5**", "5", 1.0),
        ("45", "45^\\circ", 1.0),
        ("1.234,56", "1234.56", 1.0),
        ("0.5", "50%", 1.0),
        ("0.5", "50", 0.0),
        ("12 or 13", "12", 0.0),
        ("5!", "5", 0.0),
        ("twenty-one", "21", 1.0),
        ("2i", "2", 0.0),
        ("25 C", "25", 1.0),
        ("3rd", "3", 1.0),
        ("The answer is not 5", "5", 0.0),
        ("面积不是5", "5", 0.0),
        ("There are 3 cats and 4 dogs", "3", 0.0),
        ("$5 and $10", "5", 0.0),
    ],
)
def test_numbers(answer: str, truth: str, accuracy: float) -> None:
    assert _accuracy("numeric", ANSWER.format(answer), truth) == accuracy


@pytest.mark.parametrize(
    ("answer", "truth", "accuracy"),
    [
        ("Both A and C", "C", 0.0),
        ("B or C", "B", 0.0),
        ("Based on the chart", "B", 0.0),
        ("A cat", "A", 0.0),
        ("not (B)", "B", 0.0),
        ("B is wrong", "B", 0.0),
        ("The correct answer is B, not C", "B", 1.0),
        ("Ｂ", "B", 1.0),
        ("`C`", "C", 1.0),
        ("C - the red one", "C", 1.0),
        ("D. none of the above", "D", 1.0),
        ("(A) (B) (C) (D)", "A", 0.0),
        ("A\nB\nC\nD", "A", 0.0),
        ("A cat sits here because it is tired", "A", 0.0),
    ],
)
def test_letters(answer: str, truth: str, accuracy: float) -> None:
    assert _accuracy("choice", ANSWER.format(answer), truth) == accuracy


@pytest.mark.parametrize(
    ("answer", "accuracy"),
    [
        ("[100, 200, 300, 400]", 1.0),
        ('{"bbox_2d": [100, 200, 300, 400]}', 1.0),
        ('```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "cat"}]', 1.0),
        ('The box is: [{"bbox": [100, 200, 300, 400]}]', 1.0),
        ("<|box_start|>(100,200),(300,400)<|box_end|>", 1.0),
        ("<ref>cat</ref><box>[[100, 200, 300, 400]]</box>", 1.0),
        ('[{"bbox_2d": [100, 200, 200, 200], "label": "cat"}]', 0.0),
        ('[{"bbox_2d": [300, 400, 100, 200], "label": "cat"}]', 0.0),
        ('[{"bbox_2d": [100, 200, 300, 400]}, {"bbox_2d": [0, 0, 9, 9]}]', 0.0),
        ('[{"bbox_2d": [100, 200, 300, 40', 0.0),
    ],
)
def test_one_box(answer: str, accuracy: float) -> None:
    assert _accuracy("iou", ANSWER.format(answer), _CAT) == accuracy


@pytest.mark.parametrize(
    "answer",
    [
        '[{"bbox_2d": [100, 200, 300, 400], "label": " Cat"},]',
        '[{"bbox_2d": [100, 200, 300, 400], "label": "cat"}]\nI am sure.',
        "[{'bbox_2d': [100, 200, 300, 400], 'label': 'cat'",
    ],
)
def test_labelled_boxes(answer: str) -> None:
    ratios = {"iou_max_label_first": 1.0, "iou_completeness": 0.3, "map": 1.0}
    assert _accuracy("detection", ANSWER.format(answer), _CAT, det_reward_ratio=ratios) == pytest.approx(1.0)


def test_the_last_answer_block_after_the_thought_counts() -> None:
    thought = "<think>\nis it <answer>[{'bbox_2d': [0, 0, 5, 5], 'label': 'cat'}]</answer>?\n</think>\n"
    assert _accuracy("detection", thought + _CAT, _CAT) == pytest.approx(1.0)


_LABELLED = st.builds(
    lambda corners, label: {"bbox_2d": corners, "label": label},
    st.lists(st.integers(0, 30), min_size=4, max_size=4),
    st.sampled_from(["cat", "a  Dog", "", "b.2"]),
)


@given(items=st.lists(_LABELLED, min_size=1, max_size=5), write=st.sampled_from([str, json.dumps]))
def test_a_list_as_prompts_ask_for_it_is_read_as_any_other(
    items: list[dict[str, object]], write: Callable[[object], str]
) -> None:
    plain = write(items)
    free = plain[:-1] + ",]"  # what the short way does not take
    assert _plain_list(plain) is not None and _plain_list(free) is None
    assert read_boxes(f"<answer>{plain}</answer>") == read_boxes(f"<answer>{free}</answer>")
    assert _refusal(plain) == _refusal(free)


def _refusal(truth: str) -> str:
    try:
        truth_boxes(truth, labelled=False)
    except ValueError as error:
        return str(error)
    return ""
