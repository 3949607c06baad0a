"""What must not be scored is an error before anything is: parameters, weights and truths."""

from typing import Any

import pytest

from services.reward.judging.judge import judge
from services.reward.verdict import Sample
from shared.messages import Reward, RewardSpec
from shared.samples.verifiers import DETECTION_RATIOS, filled_in, why_unusable

_CAT = "<answer>\n[{'bbox_2d': [100, 200, 300, 400], 'label': 'cat'}]\n</answer>"
_TEXT = "<think>\na\n</think>" + "\n" + _CAT


def _judge(verifier: str, truth: str, dialect: str = "tolerant", ratio: float = 1.0, **params: Any) -> Reward:
    spec = RewardSpec(
        verifier=verifier,
        answer="",
        ground_truth=truth,
        params=params,
        accuracy_ratio=ratio,
        options={"dialect": dialect},
    )
    return judge(Sample(completion=_TEXT, spec=spec))


@pytest.mark.parametrize("dialect", ["tolerant", "v-triune"])
@pytest.mark.parametrize("ratios", [None, {}, {"map": None, "iou_completeness": None}])
def test_a_detection_row_without_ratios_has_the_data_set_s(dialect: str, ratios: object) -> None:
    reward = _judge("detection", _CAT, dialect, det_reward_ratio=ratios)
    assert reward.ok and reward.accuracy == pytest.approx(1.0)
    assert filled_in("detection", {"det_reward_ratio": ratios})["det_reward_ratio"] == DETECTION_RATIOS


@pytest.mark.parametrize(
    ("verifier", "params", "told"),
    [
        ("detection", {"det_reward_ratio": {"map": 0.0}}, "sums to 0"),
        ("detection", {"det_reward_ratio": {"iou_completeness": 0.3}}, "sums to 0"),
        ("detection", {"det_reward_ratio": {"map": 1.5}}, "map is 1.5; expected a number from 0 to 1"),
        ("detection", {"det_reward_ratio": {"map": "1"}}, "map is '1'"),
        ("detection", {"det_reward_ratio": {"mapp": 1.0}}, "has no 'mapp'"),
        ("detection", {"det_verifier_normalized": "yes"}, "expected true or false"),
        ("detection", {"dialect": "loose"}, "dialect is 'loose'"),
        ("detection", {"det_reward_ratios": {}}, "the nearest one is 'det_reward_ratio'"),
        ("numeric", {"tolerance": -1}, "expected a number of at least 0"),
        ("composite", {}, "verifiers is missing"),
        ("numeric", {"relative_tolerence": 0.1}, "the nearest one is 'relative_tolerance'"),
    ],
)
def test_a_wrong_parameter_is_an_error(verifier: str, params: dict[str, Any], told: str) -> None:
    truth = _CAT if verifier == "detection" else "4"
    assert told in _judge(verifier, truth, **params).error
    assert told in str(why_unusable(verifier, truth, params))


@pytest.mark.parametrize("value", [-3.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_an_error(value: float) -> None:
    reward = _judge("detection", _CAT, ratio=value)
    assert reward.status == "verifier-error" and "accuracy_ratio is" in reward.error


@pytest.mark.parametrize(
    "truth",
    [
        "",
        "<answer></answer>",
        "<answer>[]</answer>",
        "<answer>[{'bbox_2d': [1, 2, 3], 'label': 'a'}]</answer>",
        "<answer>[{'bbox_2d': [1, 2, 3, 4], 'label': 'a'}, {'bbox_2d': [9, 2, 3, 4], 'label': 'b'}]</answer>",
        "<answer>[{'bbox_2d': [1, 2, 3, 4], 'label': 'a'}, {'bbox_2d': [5, 6</answer>",
        "<answer>[{'bbox_2d': [1, 2, 3, 4]}]</answer>",
    ],
)
def test_a_truth_of_boxes_is_read_whole_or_not_at_all(truth: str) -> None:
    for dialect in ("tolerant", "v-triune"):
        reward = _judge("detection", truth, dialect)
        assert reward.status == "verifier-error" and "ground truth" in reward.error
    assert "ground truth" in str(why_unusable("detection", truth, {}))


def test_a_label_with_an_apostrophe_is_read_by_the_tolerant_dialect_alone() -> None:
    truth = '<answer>\n[{"bbox_2d": [1, 2, 30, 40], "label": "dog\'s toy"}]\n</answer>'
    spec = RewardSpec(verifier="detection", answer="", ground_truth=truth, options={"dialect": "tolerant"})
    assert judge(Sample(completion=truth, spec=spec)).accuracy == pytest.approx(1.0)
    assert "scores 0 against itself" in _judge("detection", truth, "v-triune").error


@pytest.mark.parametrize("truth", ["1331 and 1728", "square feet", "there are 12 apples and 3 pears"])
def test_a_truth_that_v_triune_reads_half_is_an_error_in_its_dialect(truth: str) -> None:
    assert "against itself" in _judge("mathverify", truth, "v-triune").error
    assert _judge("mathverify", truth).ok


@pytest.mark.parametrize("truth", ["\\boxed{\\frac{7}{3}}", "\\boxed{12\\text{ cm}}", "\\boxed{x=3}", "$4$"])
def test_a_truth_that_v_triune_reads_whole_is_scored_in_its_dialect(truth: str) -> None:
    assert _judge("mathverify", truth, "v-triune").ok


def test_the_members_of_a_composite_are_checked_too() -> None:
    members = [{"name": "detection", "params": {"det_reward_ratio": {"map": 0.0}}}]
    assert "sums to 0" in _judge("composite", _CAT, verifiers=members).error


def test_v_triune_s_own_request_is_taken_as_it_is() -> None:
    spec = RewardSpec(verifier="detection", answer="", ground_truth="", options={"dialect": "v-triune"})
    assert judge(Sample(completion=_TEXT, spec=spec, checked=False)).ok
