"""V-Triune's own results, case by case."""

import pytest

from services.reward.http import vtriune
from services.reward.judging.judge import failed, judge
from services.reward.verdict import VerifierError
from shared.messages import Reward
from tests.reward.cases import Case, cases


def _reward(case: Case) -> Reward:
    try:
        sample = vtriune.to_sample(case.payload, case.threshold, 10.0)
    except VerifierError as error:
        return failed(str(error))
    return judge(sample)


@pytest.mark.parametrize("case", [case for case in cases() if not case.is_error], ids=lambda case: case.id)
def test_a_scored_case_has_the_original_s_numbers(case: Case) -> None:
    reward = _reward(case)
    assert reward.error == ""
    assert reward.final == pytest.approx(case.expected["score"], abs=1e-6)
    assert reward.accuracy == pytest.approx(case.expected["accuracy"], abs=1e-6)
    assert reward.format == pytest.approx(case.expected["format"], abs=1e-6)
    assert reward.parts == pytest.approx(case.parts, abs=1e-6)


@pytest.mark.parametrize("case", [case for case in cases() if case.is_error], ids=lambda case: case.id)
def test_an_exception_of_the_original_is_an_error_and_judge_reports_its_zeros(case: Case) -> None:
    reward = _reward(case)
    assert reward.status == "verifier-error" and reward.error
    answer = vtriune.answer(reward)
    assert answer["error"] == reward.error
    assert answer["rewards"] == pytest.approx(case.expected["rewards"], abs=1e-6)
