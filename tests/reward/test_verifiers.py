"""The verifiers beside V-Triune's two, thresholds and coordinates: numbers worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reward.boxes.geometry import predicted_relative
from services.reward.boxes.thresholds import THRESHOLDS, parse_threshold, thresholds
from services.reward.http.vtriune import grid_sizes, progress
from services.reward.judging.compose import compose
from services.reward.judging.judge import judge
from services.reward.judging.registry import discover
from services.reward.verdict import Context, Sample, VerifierError
from shared.answers.blocks import final_answer, last_boxes, reference
from shared.messages import Reward, RewardSpec
from shared.models.catalog import known_families
from shared.samples.boxes import Box
from shared.samples.verifiers import VERIFIERS, known_verifiers

_CAT = "<answer>[{'bbox_2d': [0, 0, 100, 100], 'label': 'cat'}]</answer>"
TAGGED = "<think>\na\n</think>\n<answer>\n{}\n</answer>"


def _judge(verifier: str, answer: str, truth: str, **params: object) -> Reward:
    spec = RewardSpec(verifier=verifier, answer="", ground_truth=truth, params=params)
    return judge(Sample(completion=TAGGED.format(answer), spec=spec))


def test_every_built_in_verifier_has_a_file_and_every_file_a_name() -> None:
    assert set(discover()) == set(VERIFIERS) == set(known_verifiers()) - {"misbehave"}


@pytest.mark.parametrize(
    ("verifier", "answer", "truth", "accuracy"),
    [
        ("exact", "Listen", "listen", 1.0),
        ("exact", "silent", "listen", 0.0),
        ("exact", "\\boxed{ﬁne  Art}", "\\boxed{fine art}", 1.0),  # the ligature of f and i
        ("anls", "stop", "stop", 1.0),
        ("anls", "pots", "stop", 0.0),  # three edits of four
        ("anls", "hallo world", "Hello World", 1 - 1 / 11),
        ("anls", "completely different", "x", 0.0),
        ("numeric", "1,234.5", "1234.5", 1.0),
        ("numeric", "$ 12", "12", 1.0),
        ("numeric", "1/2", "0.5", 1.0),
        ("numeric", "1e3", "1000", 1.0),
        ("numeric", "12 cm", "12", 1.0),
        ("numeric", "12 or 13", "12", 0.0),
        ("numeric", "nan", "12", 0.0),
        ("choice", "(B) a cat", "B", 1.0),
        ("choice", "\\boxed{\\text{b}}", "\\boxed{B}", 1.0),
        ("choice", "Option B", "b", 1.0),
        ("choice", "A or B", "b", 0.0),
        ("count", "Three objects.", "3", 1.0),
        ("count", "03", "3", 1.0),
        ("count", "3.5", "3", 0.0),
        ("format", "anything", "", 1.0),
    ],
)
def test_accuracy_worked_by_hand(verifier: str, answer: str, truth: str, accuracy: float) -> None:
    reward = _judge(verifier, answer, truth)
    assert reward.ok and reward.accuracy == pytest.approx(accuracy)
    assert reward.format == 1.0


@pytest.mark.parametrize(
    ("verifier", "truth"),
    [("numeric", "many"), ("choice", "the cat"), ("count", "a few"), ("anls", " "), ("iou", "<answer>no</answer>")],
)
def test_a_ground_truth_of_the_wrong_kind_is_an_error(verifier: str, truth: str) -> None:
    reward = _judge(verifier, "4", truth)
    assert reward.status == "verifier-error" and "ground truth" in reward.error


def test_a_numeric_answer_may_be_off_by_its_tolerance() -> None:
    assert _judge("numeric", "104", "100", relative_tolerance=0.05).accuracy == 1.0
    assert _judge("numeric", "106", "100", relative_tolerance=0.05).accuracy == 0.0
    assert _judge("numeric", "0.4", "0", tolerance=0.5).accuracy == 1.0
    assert "tolerance is 'x'" in _judge("numeric", "1", "1", tolerance="x").error


@pytest.mark.parametrize("said", ["{}", "<think>\nI look.\n</think>\n\n{}"])
def test_a_completion_that_is_nothing_but_the_answer_is_right_and_has_no_format(said: str) -> None:
    for verifier, truth in (("exact", "b"), ("anls", "b"), ("numeric", "1"), ("choice", "b"), ("count", "1")):
        spec = RewardSpec(verifier=verifier, answer="", ground_truth=truth)
        reward = judge(Sample(completion=said.format(truth), spec=spec))
        assert (reward.accuracy, reward.format) == (1.0, 0.5 if "think" in said else 0.0)


@pytest.mark.parametrize("said", ["I look.\n{}", "<think>\n{}", "{}, I would say" + ", after a long look" * 5])
def test_an_answer_that_nothing_marks_is_wrong(said: str) -> None:
    for verifier, truth in (("exact", "b"), ("anls", "b"), ("numeric", "1"), ("choice", "b"), ("count", "1")):
        spec = RewardSpec(verifier=verifier, answer="", ground_truth=truth)
        assert judge(Sample(completion=said.format(truth), spec=spec)).accuracy == 0.0


def test_a_composite_is_the_weighted_mean_of_its_members() -> None:
    members = [{"name": "anls", "weight": 3.0}, {"name": "numeric", "params": {"tolerance": 1}}]
    reward = _judge("composite", "13", "14", verifiers=members)
    assert reward.accuracy == pytest.approx((3 * 0.0 + 1.0) / 4)  # one edit of two is 0.5: below the cut
    assert reward.parts["numeric.accuracy"] == 1.0 and reward.parts["anls.similarity"] == 0.5


@pytest.mark.parametrize(
    "members",
    [None, [], [{"name": "composite"}], [{"name": "anls"}, {"name": "anls"}], [{"name": "anls", "weight": -1}],
     [{"name": "nobody"}], [{"nam": "anls"}], "anls"],
)  # fmt: skip
def test_a_wrong_composite_is_an_error(members: object) -> None:
    assert _judge("composite", "a", "a", verifiers=members).status == "verifier-error"


def test_the_single_box_reward_is_the_iou_past_the_threshold() -> None:
    truth = "<answer>[{'bbox_2d': [0, 0, 100, 100], 'label': 'cat'}]</answer>"

    def score(width: int, step: int) -> float:
        spec = RewardSpec(verifier="iou", answer="", ground_truth=truth)
        answer = TAGGED.format(f"[{{'bbox_2d': [0, 0, {width}, 100], 'label': 'x'}}]")
        return judge(Sample(completion=answer, spec=spec, context=Context(progress=step / 100))).accuracy

    assert score(90, 10) == pytest.approx(0.9)  # 0.85 holds up to and including a tenth
    assert score(90, 11) == 0.0 and score(96, 25) == pytest.approx(0.96)
    assert score(96, 26) == 0.0 and score(100, 100) == 1.0


def test_thresholds_follow_the_mode_and_the_schedule() -> None:
    assert thresholds({}, 0.1) == (0.85,)
    assert thresholds({"iou_schedule": [[0.5, 0.3], [1.0, 0.6]]}, 0.5) == (0.3,)
    assert thresholds({"iou_schedule": [[0.5, 0.3], [1.0, 0.6]]}, 7.0) == (0.6,)
    assert thresholds({"iou_threshold": "average"}, 0.0) == THRESHOLDS
    assert thresholds({"iou_threshold": 0.52}, 0.0) == (0.52,)
    for wrong in ({"iou_threshold": 2}, {"iou_threshold": None}, {"iou_schedule": []}, {"iou_schedule": [[1, 2]]}):
        with pytest.raises(VerifierError):
            thresholds(wrong, 0.0)


@pytest.mark.parametrize(("text", "value"), [(" 0.5 ", 0.5), ("dynamic", "dynamic"), (".9", 0.9), ("1", 1.0)])
def test_a_user_s_threshold_is_read(text: str, value: object) -> None:
    assert parse_threshold(text) == value


def test_the_coordinate_convention_is_a_setting() -> None:
    boxes, context = [Box((32, 24, 64, 48), "a")], Context(resized=[(320, 240)], original=[(640, 480)])

    def corners(coordinates: str, pixels: bool = False) -> tuple[float, ...]:
        return predicted_relative(boxes, context, coordinates=coordinates, pixels=pixels)[0].corners

    assert corners("relative", True) == corners("auto") == (32, 24, 64, 48)
    assert corners("auto", True) == corners("resized") == (100, 100, 200, 200)
    assert corners("original", True) == (50, 50, 100, 100)
    with pytest.raises(VerifierError, match="no original image size"):
        predicted_relative(boxes, Context(), coordinates="original", pixels=True)
    with pytest.raises(VerifierError, match="expected auto"):
        corners("pixels")


@pytest.mark.parametrize(
    ("family", "written"),
    [
        ("qwen2_vl", (100, 200, 500, 600)),
        ("qwen2_5_vl", (28, 28, 140, 84)),  # pixels of the resized image, 280 x 140
        ("qwen3_vl", (100, 200, 500, 600)),
        ("qwen3_5", (100, 200, 500, 600)),
        ("glm4v", (100, 200, 500, 600)),
        ("internvl", (100, 200, 500, 600)),
        ("gemma3", (200, 100, 600, 500)),  # y first
    ],
)
@pytest.mark.parametrize("normalized", [True, False])
def test_auto_reads_a_box_as_the_model_s_family_writes_it(
    family: str, written: tuple[float, ...], normalized: bool
) -> None:
    """A box from 10 % to 50 % of the width and 20 % to 60 % of the height, whatever the sample's own flag says."""
    convention = known_families()[family].boxes
    assert convention is not None
    context = Context(resized=[(280, 140)], original=[(1000, 500)], convention=convention)
    found = predicted_relative([Box(written, "a")], context, coordinates="auto", pixels=normalized)
    assert found[0].corners == (100, 200, 500, 600)
    asked = predicted_relative([Box((100, 100, 500, 300), "a")], context, coordinates="original", pixels=normalized)
    assert asked[0].corners == (100, 200, 500, 600)


@pytest.mark.parametrize("family", ["smolvlm", "idefics3", "llava_onevision", "mistral3"])
def test_a_family_whose_makers_say_nothing_leaves_it_to_the_sample(family: str) -> None:
    context = Context(resized=[(280, 140)], convention=known_families()[family].boxes or "")
    boxes = [Box((28, 28, 140, 84), "a")]
    assert predicted_relative(boxes, context, coordinates="auto", pixels=True)[0].corners == (100, 200, 500, 600)
    assert predicted_relative(boxes, context, coordinates="auto", pixels=False) == boxes


@pytest.mark.parametrize("grid", [[[1, 672]], [[1, 0, 672]], [5], "x", [["1", "2", "3"]]])
def test_a_grid_that_cannot_be_read_is_an_error_only_where_boxes_are_converted(grid: object) -> None:
    spec = RewardSpec(verifier="detection", answer="", ground_truth=_CAT, params={"det_verifier_normalized": True})
    context = Context(resized=grid_sizes(grid))
    assert "expected sides above 0" in judge(Sample(completion=_CAT, spec=spec, context=context)).error
    assert judge(Sample(completion="no box", spec=spec, context=context)).ok


def test_progress_may_be_text_and_must_be_a_number() -> None:
    assert progress("3", 12) == 0.25
    for step, total in ((1, 0), (None, 1), ("x", 1), (1, [])):
        with pytest.raises(VerifierError, match="expected numbers"):
            progress(step, total)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 10), st.floats(0.01, 10))
def test_the_final_reward_lies_between_accuracy_and_format(acc: float, form: float, ar: float, fr: float) -> None:
    final = compose(acc, form, ar, fr)
    assert min(acc, form) - 1e-9 <= final <= max(acc, form) + 1e-9


def test_the_last_box_of_the_last_answer_counts() -> None:
    assert final_answer("\\boxed{1} <answer> \\boxed{2} \\boxed{3{x}} </answer>") == "3{x}"
    assert final_answer("<answer>a</answer><answer> b </answer>") == "b"
    assert final_answer("\\boxed{1} \\boxed{2") == "1"
    assert final_answer("nothing\nat all") is None
    assert reference(" bare ") == "bare" and reference("<answer>\n7\n</answer>") == "7"


@given(st.text(alphabet="\\boxed{}a ", max_size=60))
def test_a_box_that_is_found_balances_its_braces(text: str) -> None:
    box = last_boxes(text)
    if box is not None:
        assert box.count("{") == box.count("}")
