"""What a job's file plans of its sources' weights."""

from typing import Any

from shared.jobs.document import parse_job
from shared.jobs.spec import JobSpec
from shared.jobs.weights import planned_weights, weight_mistakes


def spec(**sources: Any) -> JobSpec:
    return parse_job({"model": "m", "total_steps": 90, "data": {"train": ["x"]}, "sources": sources})


def test_a_source_of_weight_0_whose_schedule_begins_at_once_is_trained_on() -> None:
    assert weight_mistakes(planned_weights(spec(a={"weight": 0.0, "schedule": [[0, 1.0]]}), ["a"])) == []
    assert weight_mistakes(planned_weights(spec(a={"weight": 0.0}), ["a", "b"])) == []


def test_the_first_step_without_anything_to_train_on_is_named() -> None:
    relay = {"a": {"schedule": [[20, 0.0]]}, "b": {"weight": 0.0, "schedule": [[20, 2.0], [60, 0.0]]}}
    assert list(planned_weights(spec(**relay), ["a", "b"])) == [
        (0, {"a": 1.0, "b": 0.0}),
        (20, {"a": 0.0, "b": 2.0}),
        (60, {"a": 0.0, "b": 0.0}),
    ]
    (mistake,) = weight_mistakes(planned_weights(spec(**relay), ["a", "b"]))
    assert mistake.startswith("sources: every weight is 0 from step 60 on; ")
    late = spec(b={"weight": 0.0, "schedule": [[5, 1.0]]})
    assert "from step 0 on" in weight_mistakes(planned_weights(late, ["b"]))[0]


def test_a_request_ends_the_schedule_of_its_source_and_the_past_does_not_count() -> None:
    relay = spec(a={"schedule": [[20, 0.0]]}, b={"weight": 0.0, "schedule": [[20, 2.0]]})
    assert weight_mistakes(planned_weights(relay, ["a", "b"], asked={"b": 0.0}))[0].startswith(
        "sources: every weight is 0 from step 20 on"
    )
    assert weight_mistakes(planned_weights(relay, ["a", "b"], asked={"a": 0.0}, since=30)) == []
