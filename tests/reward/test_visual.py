"""Polygons, rotated boxes, points, key points, tables, charts and nested answers: numbers worked by hand."""

import importlib.util
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reward.judging.judge import judge
from services.reward.verdict import Sample
from services.reward.verifiers.anls_star import library
from shared.messages import Reward, RewardSpec

_ANSWER = "<think>\na\n</think>\n<answer>\n{}\n</answer>"
_SQUARE = "[[0, 0], [10, 0], [10, 10], [0, 10]]"
_TABLE = "| city | 2019 | 2020 |\n|---|---|---|\n| Rome | 3 | 4 |\n| Oslo | 5 | 6 |"
_POINTS = '{"keypoints": [[10, 10, 2], [20, 20, 1], [0, 0, 0]], "area": 100}'


def _judge(verifier: str, answer: object, truth: str, **params: Any) -> Reward:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    spec = RewardSpec(verifier=verifier, answer="", ground_truth=truth, params=params)
    return judge(Sample(completion=_ANSWER.replace("{}", text), spec=spec))


@pytest.mark.parametrize(
    ("verifier", "answer", "truth", "accuracy"),
    [
        ("polygon", _SQUARE, _SQUARE, 1.0),
        ("polygon", "[5, 0, 15, 0, 15, 10, 5, 10]", _SQUARE, 50 / 150),
        ("polygon", '```json\n{"polygon": [[0, 0], [10, 0], [10, 10]]}\n```', _SQUARE, 0.5),
        ("polygon", "[[0, 0], [10, 10], [10, 0], [0, 10]]", _SQUARE, 0.5),  # a bow tie: two triangles of 25
        ("polygon", "[[0, 0], [1, 1]]", _SQUARE, 0.0),
        ("rotated-iou", "[5, 5, 4, 2, 180]", "[5, 5, 4, 2, 0]", 1.0),
        ("rotated-iou", "[5, 5, 4, 2, 90]", "[5, 5, 4, 2, 0]", 4 / 12),
        ("rotated-iou", "[5, 5, 2, 2, 45]", "[5, 5, 2, 2, 0]", (8 * (math.sqrt(2) - 1)) / (8 - 8 * (math.sqrt(2) - 1))),
        ("rotated-iou", "[5, 5, 4, 2]", "[5, 5, 4, 2, 0]", 0.0),
        ("point", "[3, 4]", "[0, 0, 10, 10]", 1.0),
        ("point", "(10, 10)", "[0, 0, 10, 10]", 1.0),
        ("point", '{"x": 11, "y": 4}', "[0, 0, 10, 10]", 0.0),
        ("point", '[{"point_2d": [3, 4], "label": "a"}]', "[0, 0, 10, 10]", 1.0),
        ("point", "[4, 4, 30, 30]", "[0, 0, 10, 10]", 0.0),  # a box is its centre
        ("point", "[8, 1]", "[[0, 0], [10, 10], [0, 10]]", 0.0),
        ("point", "I click there", "[0, 0, 10, 10]", 0.0),
        ("keypoints", [[10, 10], [20, 20], [99, 99]], _POINTS, 1.0),
        ("keypoints", [[10, 11], [20, 20], [0, 0]], _POINTS, (math.exp(-1 / (2 * 100 * 0.01)) + 1) / 2),
        ("keypoints", [[10, 10], [20, 20]], _POINTS, 0.0),
        ("table", _TABLE, _TABLE, 1.0),
        ("table", "<table><tr><th>City</th><th>2019</th><th>2020</th></tr><tr><td>Rome</td><td>3</td><td>4</td></tr>"
                  "<tr><td>Oslo</td><td>5</td><td>6</td></tr></table>", _TABLE, 1.0),
        ("table", _TABLE.replace("Oslo", "Ostw"), _TABLE, 1 - 0.5 / 13),  # two of four letters, in 13 nodes
        ("table", _TABLE.replace("\n| Oslo | 5 | 6 |", ""), _TABLE, 1 - 4 / 13),
        ("chart-derender", _TABLE, _TABLE, 1.0),
        ("chart-derender", "year | Rome | Oslo\n2019 | 3 | 5\n2020 | 4 | 6", _TABLE, 1.0),  # the transpose
        ("chart-derender", _TABLE.replace("| 5 |", "| 4 |"), _TABLE, (3 + 0.8) / 4),  # a fifth off
        ("chart-derender", _TABLE.replace("\n| Oslo | 5 | 6 |", ""), _TABLE, 2 * 1 * 0.5 / 1.5),
        ("anls-star", {"a": "Hello", "b": ["x", "y"]}, '{"a": "Hello", "b": ["y", "x"]}', 1.0),
        ("anls-star", {"a": "Hallo"}, '{"a": "Hello", "b": "x"}', 0.4),
        ("anls-star", "hallo", "hello", 0.8),
        ("json", {"total": "12.50", "items": ["a", "b"]}, '{"total": 12.5, "items": ["a", "b"]}', 1.0),
        ("json", {"total": 12.5, "more": 1}, '{"total": 12.5, "items": ["a", "b"]}', 2 * 1 / 5),
        ("json", "{'total': 12.5, 'items': ['a', 'b'],}", '{"total": 12.5, "items": ["a", "b"]}', 1.0),
        ("json", "nothing", '{"total": 12.5}', 0.0),
    ],
)  # fmt: skip
def test_accuracy_worked_by_hand(verifier: str, answer: object, truth: str, accuracy: float) -> None:
    reward = _judge(verifier, answer, truth)
    assert reward.ok, reward.error
    assert reward.accuracy == pytest.approx(accuracy) and reward.format == 1.0


def _library_as_it_comes() -> Any:
    spec = importlib.util.spec_from_file_location("anls_star.as_it_comes", library.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_AS_IT_COMES = _library_as_it_comes()
_LEAVES = st.text("abc ", max_size=6) | st.integers(0, 99).map(str)
_LISTS = st.lists(_LEAVES, max_size=5)
_NESTED = st.dictionaries(st.sampled_from("xyz"), _LEAVES | _LISTS | st.dictionaries(st.sampled_from("xy"), _LISTS))


@given(truth=_LISTS | _NESTED, answer=_LISTS | _NESTED)
def test_nested_answers_have_the_library_s_own_score(truth: Any, answer: Any) -> None:
    assert library.ANLSLeaf._levenshtein_distance is not _AS_IT_COMES.ANLSLeaf._levenshtein_distance
    assert library.anls_score(truth, answer) == pytest.approx(_AS_IT_COMES.anls_score(truth, answer), abs=1e-12)


def test_a_threshold_cuts_small_overlaps() -> None:
    half = "[[0, 0], [10, 0], [10, 10]]"
    assert _judge("polygon", half, _SQUARE, threshold=0.5).accuracy == pytest.approx(0.5)
    below = _judge("polygon", half, _SQUARE, threshold=0.6)
    assert below.accuracy == 0.0 and below.parts["iou"] == pytest.approx(0.5)
    assert "expected a number from 0 to 1" in _judge("polygon", half, _SQUARE, threshold=2).error


def test_a_structure_without_its_text_counts_where_the_sample_says_so() -> None:
    other = _TABLE.replace("Oslo", "Zzzz")
    assert _judge("table", other, _TABLE, structure=True).accuracy == 1.0
    assert _judge("table", other, _TABLE).accuracy == pytest.approx(1 - 1 / 13)


def test_an_answer_that_violates_the_schema_is_wrong() -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
    assert _judge("json", {"total": 12.5}, '{"total": 12.5}', schema=schema).accuracy == 1.0
    wrong = _judge("json", {"total": "12.5"}, '{"total": 12.5}', schema=schema)
    assert wrong.accuracy == 0.0 and wrong.parts["recall"] == 1.0 and wrong.parts["valid"] == 0.0
    assert "violates the schema" in _judge("json", {}, '{"sum": 1}', schema=schema).error
    assert "no JSON Schema" in _judge("json", {}, '{"sum": 1}', schema={"type": "thing"}).error


@pytest.mark.parametrize(
    ("verifier", "truth"),
    [
        ("polygon", "[[0, 0], [1, 1]]"),
        ("rotated-iou", "[1, 2, 3, 4]"),
        ("point", "[3, 4]"),
        ("keypoints", "[[1, 2], [3, 4]]"),
        ("keypoints", '{"keypoints": [[1, 2, 0]], "area": 10}'),
        ("table", "no table"),
        ("chart-derender", "| a | b |"),
        ("json", "text"),
        ("json", "{}"),
    ],
)
def test_a_ground_truth_of_the_wrong_kind_is_an_error(verifier: str, truth: str) -> None:
    reward = _judge(verifier, "[1]", truth)
    assert reward.status == "verifier-error" and "ground truth" in reward.error
