"""Reading boxes: hand-worked forms, and that no text at all makes it raise."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.samples.boxes import Box, answer_block, parse_boxes

CAT = "{'bbox_2d': [1, 2, 3, 4], 'label': 'Cat'}"
NUMBERS = st.one_of(st.integers(-2000, 2000), st.floats(-2000, 2000, allow_nan=False))


@pytest.mark.parametrize(
    "body",
    [
        f"[{CAT}]",
        f"[[{CAT}]]",
        f"[{CAT}, {{'bbox_2d': [5, 6, 7",  # cut off: the complete item stays
        '[{"BBOX_2D": [1, 2, 3, 4], "LABEL": "CAT", "confidence": 0.5}]',
        f"[{CAT}, {{'bbox_2d': [1, 2, 3, 4], 'label': 'dog'}}]",  # the same place again
        f"[{CAT}, {{'bbox_2d': [9, 2, 3, 4], 'label': 'dog'}}, 7, {{'bbox_2d': [1, 2], 'label': 'dog'}}]",
        "[{'bbox_2d': [[1, 2, 3, 4]], 'label': 'cat'}]",
    ],
)
def test_these_forms_hold_one_cat(body: str) -> None:
    assert parse_boxes(f"so <answer>\n{body}\n</answer>") == [Box((1, 2, 3, 4), "cat")]


@pytest.mark.parametrize(
    "body",
    ["", " ", "[]", CAT, f"```json\n[{CAT}]\n```", f"[{CAT},]", "[{'bbox_2d': [1, 2, 3, 4], 'label': 'dog's'}]", "nan"],
)
def test_these_forms_hold_none(body: str) -> None:
    assert parse_boxes(f"<answer>{body}</answer>") is None


def test_the_first_answer_block_counts_and_tags_are_case_sensitive() -> None:
    assert answer_block("<answer> A </answer> <answer>b</answer>") == "a"
    assert answer_block("<Answer>a</Answer>") == answer_block("<answer>a") == ""


@given(st.text() | st.text(alphabet="[]{}'\":,0123456789 \\bboxlabel_2d\n", max_size=200))
def test_no_text_makes_the_parser_raise(text: str) -> None:
    boxes = parse_boxes(f"<answer>{text}</answer>")
    assert boxes is None or all(box.corners[0] <= box.corners[2] for box in boxes)


@given(st.lists(st.tuples(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), st.sampled_from(["a", "b c"])), min_size=1))
def test_boxes_written_as_json_are_read_back_in_order_without_repeats(
    items: list[tuple[tuple[float, ...], str]],
) -> None:
    text = json.dumps([{"bbox_2d": list(corners), "label": label} for corners, label in items])
    expected: dict[tuple[float, ...], str] = {}
    for corners, label in items:
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            expected.setdefault(corners, label)
    assert parse_boxes(f"<answer>{text}</answer>") == ([Box(*item) for item in expected.items()] or None)


@pytest.mark.parametrize("text", ["[" * 1_000_000, "[{'bbox_2d':" * 5000, "[" + "9" * 10_000 + "]", "[1e999]"])
def test_deep_long_and_huge_lists_are_no_boxes(text: str) -> None:
    assert parse_boxes(f"<answer>{text}</answer>") is None
