"""A row is a sample, or there is one clear reason why not."""

from typing import Any

import pytest

from services.data.reading.sample import Identity, Sample, identify, read_row
from shared.errors import BadSample
from tests.data.rows import boxes_row, math_row, png


def read(row: dict[str, Any], place: str) -> Sample:
    """`row` as a sample; images are never loaded from a path here."""

    def load(path: str) -> bytes:
        raise BadSample(f"{path} is not there")

    return read_row(row, place, load)


def change(row: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return row | fields


def test_a_mathverify_row_is_a_sample_without_parameters() -> None:
    sample = read(math_row(3), "f#3")
    assert sample.identity == Identity("numbers", "counting", "numbers/3")
    assert (sample.images[0].width, sample.images[0].height) == (28, 28)
    assert (sample.verifier, sample.answer, sample.ground_truth) == ("mathverify", "4", "\\boxed{4}")
    assert (sample.accuracy_ratio, sample.format_ratio, sample.params) == (1.0, 0.0, {})


def test_a_detection_row_keeps_its_parameters_and_loses_the_prefix_of_its_ability() -> None:
    sample = read(boxes_row(1), "f#1")
    assert sample.identity.task == "detection"
    ratios = sample.params["det_reward_ratio"]
    assert sample.params["det_verifier_normalized"] is True
    assert isinstance(ratios, dict) and ratios["iou_max_label_first"] == 1.0 and ratios["map"] == 0.0


def test_what_a_row_does_not_say_has_a_default() -> None:
    row = math_row(accuracy_ratio=None, format_ratio=None, answer=None)
    row |= {"extra_info": None, "ability": None, "data_source": "MM/Math"}
    sample = read(row, "file.parquet#7")
    assert sample.identity == Identity("mm_math", "mm_math", "file.parquet#7")
    assert (sample.accuracy_ratio, sample.format_ratio, sample.answer) == (1.0, None, "")


def test_a_bad_row_still_has_an_identity() -> None:
    assert identify({"data_source": None}, "f#0") == Identity("unknown", "unknown", "f#0")


BOXES = "<answer>\n%s\n</answer>"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (change(math_row(), data_source=""), "data_source is empty"),
        (change(math_row(), prompt=[]), "prompt is empty"),
        (change(math_row(), prompt=None), "prompt is empty"),
        (change(math_row(), prompt=[{"content": "<image>", "role": "judge"}]), "role 'judge'; expected system"),
        (change(math_row(), prompt=[{"content": " ", "role": "user"}]), "turn 0 is empty"),
        (change(math_row(), prompt=[{"content": "<image>", "role": "assistant"}]), "last prompt turn"),
        (change(math_row(), prompt=[{"content": "<image>" + "x" * 300_000, "role": "user"}]), "300007 characters"),
        (change(math_row(), images=[]), "1 <image> for 0 images"),
        (change(math_row(), images=[{"bytes": png(), "path": ""}] * 2), "1 <image> for 2 images"),
        (change(math_row(), images=[{"bytes": None, "path": "a.png"}]), "image 0: a.png is not there"),
        (change(math_row(), images=[None]), "image 0: the image has neither bytes nor a path"),
        (change(math_row(), images=[7]), "image 0 is 7; expected bytes, a path"),
        (change(math_row(), prompt="<image>How many?"), "prompt is '<image>How many[?]'; expected list<struct"),
        (change(math_row(), data_source=True), "data_source is True; expected string"),
        (math_row(accuracy_ratio="high"), "reward_model.accuracy_ratio is 'high'; expected float"),
        (change(math_row(), images=[{"bytes": b"GIF", "path": "a.png"}]), "image 0: the image of 3 bytes is in none"),
        (math_row(verifier="llm_judge"), "verifier is 'llm_judge'; there are .*mathverify"),
        (math_row(verifier=None), "verifier is None"),
        (math_row(ground_truth=" "), "ground_truth is empty"),
        (math_row(accuracy_ratio=float("nan")), "accuracy_ratio is nan"),
        (math_row(format_ratio=-0.1), "format_ratio is -0.1"),
        (math_row(accuracy_ratio=0.0), "both 0"),
        (boxes_row(ground_truth=BOXES % "[{'bbox_2d': [112, 40, 'label': 'cat'}]"), "not a list of boxes"),
        (boxes_row(ground_truth=BOXES % "[{'bbox_2d': [1, 2, 3, 4]}]"), "a box without a label"),
        (boxes_row(ground_truth=BOXES % "[{'bbox_2d': [9, 2, 3, 4], 'label': 'cat'}]"), "1 items, of which 0 read"),
        (boxes_row(ground_truth=BOXES % "[{'bbox_2d': [1, 2, 3, 4], 'label': 'cat'}, {}]"), "2 items, of which 1"),
        (boxes_row(ground_truth=BOXES % "[{'bbox_2d': [1, 2, 3, 4], 'label': 'cat'},"), "not a list of boxes"),
        (boxes_row(ground_truth=BOXES % "{}"), "no list of boxes"),
        (boxes_row(verifier_parm={"det_reward_ratio": {"map": float("inf")}}), "det_reward_ratio.map is inf"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_cannot_be_used_names_its_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        read(row, "f#0")
