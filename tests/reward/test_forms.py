"""Properties of every verifier: a right answer stays right in any form, and another value stays wrong in the same form.

`HYPOTHESIS_PROFILE=full` draws 2,000 examples of each.
"""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.reward.judging.judge import judge
from services.reward.verdict import Sample
from shared.answers import counting
from shared.messages import RewardSpec
from tests.reward.forms import box_forms, boxes, enclosed, frames, letter_forms, number_forms, word_forms

_TOLERANT = {"dialect": "tolerant"}
_WORDS = st.sampled_from(
    ["Paris", "new york", "listen", "silent", "a red square", "Straße", "café", "正方形", "no entry"]
)


def _accuracy(verifier: str, completion: str, truth: str, **params: Any) -> float:
    spec = RewardSpec(verifier=verifier, answer="", ground_truth=truth, params=params, options=_TOLERANT)
    reward = judge(Sample(completion=completion, spec=spec))
    assert reward.ok, reward.error
    return reward.accuracy


@pytest.mark.parametrize("verifier", ["numeric", "mathverify"])
@given(data=st.data(), value=st.integers(-(10**7), 10**7) | st.integers(1, 9999).map(lambda n: n * 1000))
def test_a_number_is_right_in_any_form_and_another_one_wrong(verifier: str, data: st.DataObject, value: int) -> None:
    other = data.draw(st.integers(-(10**7), 10**7))
    assume(value and other != value and abs(value) != 17771 and 100 * other != value and other != 100 * value)
    frame = data.draw(frames())
    truth = data.draw(st.sampled_from([str(value), f"\\boxed{{{value}}}", f"<answer>\n{value}\n</answer>"]))
    tolerance = {"relative_tolerance": 0.0} if verifier == "numeric" else {}
    right, wrong = (frame.replace("§", data.draw(number_forms(number))) for number in (value, other))
    assert _accuracy(verifier, right, truth, **tolerance) == 1.0, right
    assert _accuracy(verifier, wrong, truth, **tolerance) == 0.0, wrong


@given(data=st.data(), value=st.integers(0, 20))
def test_a_count_is_right_in_any_form_and_another_one_wrong(data: st.DataObject, value: int) -> None:
    words = [*counting.ONES, "twenty"]
    other = data.draw(st.integers(0, 20).filter(lambda number: number != value))

    def form(number: int) -> str:
        return data.draw(
            st.sampled_from(
                [
                    str(number),
                    words[number],
                    f"{words[number].title()} objects",
                    f"There are {number} cats",
                    f"{number}个",
                    f"{number}.0",
                ]
            )
        )

    frame = data.draw(frames())
    assert _accuracy("count", frame.replace("§", form(value)), str(value)) == 1.0
    assert _accuracy("count", frame.replace("§", form(other)), str(value)) == 0.0


@given(data=st.data(), letters=st.lists(st.sampled_from("ABCDEFGH"), min_size=2, max_size=2, unique=True))
def test_a_letter_is_right_in_any_form_and_another_one_wrong(data: st.DataObject, letters: list[str]) -> None:
    truth = data.draw(st.sampled_from(["{}", "\\boxed{{{}}}", "({})"])).format(letters[0])
    frame = data.draw(frames())
    right, wrong = (frame.replace("§", data.draw(letter_forms(letter))) for letter in letters)
    assert _accuracy("choice", right, truth) == 1.0, right
    assert _accuracy("choice", wrong, truth) == 0.0, wrong


@given(data=st.data(), letters=st.lists(st.sampled_from("ABCDEFGH"), min_size=2, max_size=2, unique=True))
def test_two_letters_are_no_answer(data: st.DataObject, letters: list[str]) -> None:
    said = data.draw(
        st.sampled_from(["{} or {}", "{}, {}", "Both {} and {}", "({}) or ({})", "{}/{}", "{}和{}", "not {} nor {}"])
    )
    completion = data.draw(frames()).replace("§", said.format(*letters))
    assert _accuracy("choice", completion, letters[1]) == _accuracy("choice", completion, letters[0]) == 0.0


@pytest.mark.parametrize("verifier", ["exact", "anls", "mathverify"])
@given(data=st.data(), truth=_WORDS, other=_WORDS)
def test_a_text_is_right_in_any_form_and_another_one_wrong(
    verifier: str, data: st.DataObject, truth: str, other: str
) -> None:
    assume(truth != other)
    frame = data.draw(enclosed())
    right, wrong = (frame.replace("§", data.draw(word_forms(text))) for text in (truth, other))
    assert _accuracy(verifier, right, data.draw(st.sampled_from(["{}", "\\boxed{{{}}}"])).format(truth)) == 1.0, right
    assert _accuracy(verifier, wrong, truth) < 1.0, wrong


@given(data=st.data(), items=boxes())
def test_boxes_are_right_in_any_form_and_moved_ones_wrong(data: st.DataObject, items: list[dict[str, Any]]) -> None:
    truth = f"<answer>\n{data.draw(st.sampled_from([str, lambda value: value]))(items)}\n</answer>"
    right = data.draw(box_forms(items))
    assert _accuracy("detection", right, truth) == pytest.approx(1.0), right
    moved = [dict(item, bbox_2d=[side + 500 for side in item["bbox_2d"]]) for item in items]
    assert _accuracy("detection", data.draw(box_forms(moved)), truth) == 0.0
    renamed = [dict(item, label="no such thing") for item in items]
    assert _accuracy("detection", data.draw(box_forms(renamed)), truth) == 0.0


@given(data=st.data(), items=boxes(most=1))
def test_one_box_is_right_in_any_form_and_a_moved_one_wrong(data: st.DataObject, items: list[dict[str, Any]]) -> None:
    truth = f"<answer>\n{items}\n</answer>"
    corners = items[0]["bbox_2d"]
    bare = st.sampled_from([str(corners), str(tuple(corners)), str(corners)[1:-1]]).map(
        lambda text: f"<answer>\n{text}\n</answer>"
    )
    assert _accuracy("iou", data.draw(box_forms(items) | bare), truth) == pytest.approx(1.0)
    moved = [dict(item, bbox_2d=[side + 500 for side in item["bbox_2d"]]) for item in items]
    assert _accuracy("iou", data.draw(box_forms(moved)), truth) == 0.0
