"""The drawn tasks: right answers verify, mistaken ones do not, boxes enclose what was drawn, form earns its reward."""

import json
from random import Random

import pytest
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from PIL import Image

from shared.samples.boxes import Box, parse_boxes
from triune.demo.tasks import TASKS, Drawn, demonstration, ground_truth
from triune.demo.tasks.canvas import COLORS, SHAPES, background, place
from triune.demo.tasks.drawn import SIZE, grown, relative
from triune.demo.tasks.ocr import DIGITS, LETTERS

SPOKEN = [name for name in TASKS if name not in ("detection", "grounding")]
LOCATED = ["detection", "grounding"]
SAMPLES = 120

PREDICTION = LatexExtractionConfig(
    normalization_config=NormalizationConfig(
        nits=False, malformed_operators=False, basic_latex=True, boxed="all", units=True
    ),
    boxed_match_priority=0,
    try_extract_without_anchor=False,
)


def accepted(solution: str, response: str) -> bool:
    """The judgement of V-Triune's mathverify."""
    gold = parse(solution.lower(), extraction_mode="first_match")
    prediction = parse(response.lower(), extraction_config=[PREDICTION], extraction_mode="first_match")
    return bool(gold) and bool(verify(gold, prediction))


def drawn(task: str, count: int = SAMPLES, seed: int = 0) -> list[Drawn]:
    rng = Random(seed)
    return [TASKS[task](rng) for _ in range(count)]


@pytest.mark.parametrize("task", SPOKEN)
def test_the_right_answer_verifies_and_the_mistaken_one_does_not(task: str) -> None:
    for sample in {(sample.answer, sample.wrong): sample for sample in drawn(task)}.values():
        assert accepted(ground_truth(sample), demonstration(sample, wrong=False)), sample
        assert not accepted(ground_truth(sample), demonstration(sample, wrong=True)), sample


@pytest.mark.parametrize("words", [list(COLORS), list(SHAPES), ["left", "right", "balanced"]], ids=str)
def test_words_verify_against_themselves_only(words: list[str]) -> None:
    for gold in words:
        assert [word for word in words if accepted(f"\\boxed{{{gold}}}", f"\\boxed{{{word}}}")] == [gold]


def test_texts_to_read_verify_against_themselves_only() -> None:
    """Every letter stands for itself, and in front of two digits no other text of the alphabet is the same product."""
    for letter in LETTERS:
        others = [other for other in LETTERS if accepted(f"\\boxed{{{letter}47}}", f"\\boxed{{{other}47}}")]
        assert others == [letter]
    pairs = [a + b for a in DIGITS for b in DIGITS]
    same = [pair for pair in pairs if accepted("\\boxed{K47}", f"\\boxed{{K{pair}}}")]
    assert same == ["47"]
    assert not accepted("\\boxed{K47}", "\\boxed{K4}")


@pytest.mark.parametrize("task", list(TASKS))
def test_a_demonstration_has_every_tag_once_on_its_own_line(task: str) -> None:
    for sample in drawn(task, 20):
        for wrong in (False, True):
            text = demonstration(sample, wrong)
            tags = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
            assert [text.count(tag) for tag in tags] == [1, 1, 1, 1]


def pixels_to_relative(box: Box) -> Box:
    return Box(tuple(int(value / SIZE * 1000) for value in box.corners), box.label)


@pytest.mark.parametrize("task", LOCATED)
def test_boxes_in_pixels_are_the_ground_truth_in_thousandths(task: str) -> None:
    for sample in drawn(task):
        truth = parse_boxes(ground_truth(sample))
        said = parse_boxes(demonstration(sample, wrong=False))
        assert truth is not None and said is not None
        assert [pixels_to_relative(box) for box in said] == truth
        mistaken = parse_boxes(demonstration(sample, wrong=True))
        assert mistaken is not None and not {box.corners for box in mistaken} & {box.corners for box in said}
        assert [box.label for box in mistaken] == [box.label for box in said]


def differing(image: Image.Image, box: list[int]) -> int:
    """How many pixels inside `box` differ from the bare background."""
    before, after = background().crop(tuple(box)), image.crop(tuple(box))
    return sum(a != b for a, b in zip(before.get_flattened_data(), after.get_flattened_data(), strict=True))


@pytest.mark.parametrize("task", LOCATED)
def test_a_box_touches_its_object_on_all_four_sides(task: str) -> None:
    for sample in drawn(task, 40):
        for item in json.loads(sample.answer):
            x1, y1, x2, y2 = item["bbox_2d"]
            edges = [x1, y1, x1 + 1, y2], [x2 - 1, y1, x2, y2], [x1, y1, x2, y1 + 1], [x1, y2 - 1, x2, y2]
            assert all(differing(sample.image, edge) > 0 for edge in edges)


def test_a_mistaken_box_is_fourteen_pixels_larger_inside_the_image() -> None:
    assert grown((0, 14, 28, 42)) == (0, 14, 42, 56)
    assert grown((56, 42, 84, 84)) == (42, 28, 84, 84)


def test_relative_coordinates_are_cut_as_predictions_are() -> None:
    assert [relative(value) for value in (0, 14, 28, 42, 56, 70, 84)] == [0, 166, 333, 500, 666, 833, 1000]


def test_objects_of_one_look_never_touch() -> None:
    rng = Random(1)
    for _ in range(200):
        (ax, ay), (bx, by), _ = place(rng, [28, 28, 42], apart=2)
        assert abs(ax - bx) > 28 or abs(ay - by) > 28


def test_counted_objects_are_there() -> None:
    """The number of coloured regions in the 3 x 3 cells is the trace's, when nothing else is drawn."""
    for sample in drawn("counting", 60):
        assert sum(map(int, sample.think.split())) == int(sample.answer)


def test_the_trace_of_a_chart_holds_the_answer() -> None:
    for sample in drawn("chart", 60):
        words = sample.think.split()
        values = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        if sample.question.startswith("Which"):
            assert sample.answer == max(values, key=values.__getitem__)
        else:
            assert int(sample.answer) == values[sample.question.split()[3]]


def test_the_trace_of_a_sum_gives_the_answer() -> None:
    for sample in drawn("math", 60):
        a, sign, b = sample.think
        assert int(sample.answer) == (int(a) + int(b) if sign == "+" else int(a) - int(b))


@pytest.mark.parametrize("task", list(TASKS))
def test_the_same_stream_draws_the_same_samples(task: str) -> None:
    first, second = drawn(task, 5, seed=3), drawn(task, 5, seed=3)
    assert [(a.image.tobytes(), a.question, a.answer) for a in first] == [
        (b.image.tobytes(), b.question, b.answer) for b in second
    ]


@pytest.mark.parametrize("task", list(TASKS))
def test_images_are_rgb_and_84_pixels_and_answers_are_not_in_the_question(task: str) -> None:
    for sample in drawn(task, 40):
        assert (sample.image.size, sample.image.mode) == ((SIZE, SIZE), "RGB")
        assert sample.task == task
        if task in SPOKEN:
            assert sample.answer not in sample.question.rstrip("?").split()
