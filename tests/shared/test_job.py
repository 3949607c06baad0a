"""The job file: every mistake at once, and the way to TOML and back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.errors import BadJob
from shared.jobs.document import parse_job, parse_toml, read_job, write_toml
from shared.jobs.spec import JobSpec, derived

GOOD: dict[str, Any] = {"model": "m", "total_steps": 10, "data": {"train": ["a.parquet"]}}


def mistakes(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(BadJob) as caught:
        parse_job({**GOOD, **changes})
    return caught.value.mistakes


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    assert mistakes(totl_steps=3) == ("unknown key 'totl_steps'; the nearest known one is 'total_steps'",)
    assert mistakes(algorithm={"max_stalenes": 1}) == (
        "unknown key 'algorithm.max_stalenes'; the nearest known one is 'algorithm.max_staleness'",
    )


@pytest.mark.parametrize(
    ("table", "key", "value", "expected"),
    [
        (
            "algorithm",
            "aggregation",
            "token",
            "expected 'token_mean', 'sequence_mean', 'constant'; the nearest one to 'token' is 'token_mean'",
        ),
        (
            "optimizer",
            "freeze",
            ["vit", "lm"],
            "expected a list of 'vit', 'connector', 'llm'; the nearest one to 'lm' is 'llm'",
        ),
        (
            "reward",
            "iou_threshold",
            "dynmic",
            "expected 'dynamic', 'average' or a number; the nearest one to 'dynmic' is 'dynamic'",
        ),
        ("learner", "zero_stage", 7, "expected 1, 2, 3"),
    ],
)
def test_a_value_that_is_none_of_the_choices_is_told_them_and_the_nearest(
    table: str, key: str, value: object, expected: str
) -> None:
    assert mistakes(**{table: {key: value}}) == (f"{table}.{key} is {value!r}; {expected}",)


def test_all_mistakes_are_listed_at_once() -> None:
    found = mistakes(total_steps="ten", data={"train": []}, optimizer={"learning_rate": -1.0}, sources={"a": {"w": 1}})
    assert len(found) == 4
    assert any(text.startswith("total_steps is 'ten'") for text in found)
    assert any(text.startswith("data.train is []") for text in found)
    assert any(text.startswith("optimizer.learning_rate is -1.0") for text in found)
    assert any("sources.a.w" in text for text in found)


def test_a_rule_between_keys_is_told_beside_mistakes_of_other_keys_and_not_beside_those_of_its_own() -> None:
    steps = {"updates_per_step": 8, "prompts_per_step": 4}
    found = mistakes(total_steps=0, algorithm=steps, optimizer={"warmup_steps": 5})
    assert len(found) == 2  # whether 5 steps of warm-up are too many, nobody knows
    assert found[0].startswith("total_steps is 0")
    assert found[1].startswith("algorithm.updates_per_step is 8, more than")


def test_a_group_of_one_completion_has_no_advantage_and_is_refused() -> None:
    assert "samples_per_prompt is 1" in mistakes(algorithm={"samples_per_prompt": 1})[0]


def test_freezing_everything_is_refused() -> None:
    assert "every component" in mistakes(optimizer={"freeze": ["vit", "connector", "llm"]})[0]


def test_keys_of_the_learner_that_exclude_each_other_are_refused() -> None:
    eight = {"engine": "deepspeed", "optimizer_state": "8bit"}
    assert "which ZeRO cannot share out" in mistakes(learner=eight)[0]
    assert "expected 'deepspeed' and 3" in mistakes(learner={"offload_parameters": True})[0]
    assert "expected 'deepspeed' and 3" in mistakes(learner={"engine": "deepspeed", "offload_parameters": True})[0]


def test_a_device_is_shared_on_policy_by_one_process_each() -> None:
    shared = {"rollout": {"shares_device": True}}
    assert parse_job({**GOOD, **shared}).rollout.shares_device
    assert "max_staleness 1" in mistakes(**shared, algorithm={"max_staleness": 1})[0]
    assert "expected 'torch'" in mistakes(**shared, learner={"engine": "deepspeed"})[0]
    assert "tensor_parallel 2" in mistakes(rollout={"shares_device": True, "tensor_parallel": 2})[0]


def test_a_nucleus_is_refused_beside_importance_weights() -> None:
    assert "importance = 'off'" in mistakes(sampling={"top_p": 0.9})[0]
    assert "importance 'on'" in mistakes(sampling={"top_p": 0.9}, algorithm={"importance": "on"})[0]
    parse_job({**GOOD, "sampling": {"top_p": 0.9}, "algorithm": {"importance": "off"}})


def test_numbers_must_be_finite() -> None:
    assert "temperature is inf" in mistakes(sampling={"temperature": float("inf")})[0]
    assert "temperature is nan" in mistakes(sampling={"temperature": float("nan")})[0]


@pytest.mark.parametrize("number", [10**30, 2**63, -(10**30), 10**23])
@pytest.mark.parametrize("key", ["seed", "total_steps"])
def test_a_number_beyond_its_bound_is_refused(key: str, number: int) -> None:
    assert mistakes(**{key: number})[0].startswith(f"{key} is {number}")


def test_no_number_of_the_job_file_is_without_an_upper_bound() -> None:
    def numbers(kind: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        for field in msgspec.structs.fields(kind):
            info = msgspec.inspect.type_info(field.type)
            inner = getattr(info, "type", info) if isinstance(info, msgspec.inspect.Metadata) else info
            for one in getattr(inner, "types", (inner,)):
                while isinstance(one, msgspec.inspect.Metadata):
                    one = one.type
                if isinstance(one, msgspec.inspect.StructType):
                    yield from numbers(one.cls, f"{path}{field.name}.")
                elif isinstance(one, msgspec.inspect.IntType | msgspec.inspect.FloatType):
                    yield f"{path}{field.name}", one

    found = dict(numbers(JobSpec))
    assert {"seed", "algorithm.max_staleness", "optimizer.learning_rate_vit"} <= found.keys()
    assert [name for name, one in found.items() if one.le is None and one.lt is None] == []


def test_rates_are_positive_and_the_warm_up_ends_within_the_job() -> None:
    assert "learning_rate_vit is -0.001" in mistakes(optimizer={"learning_rate_vit": -1e-3})[0]
    assert "learning_rate_connector is 0.0" in mistakes(optimizer={"learning_rate_connector": 0.0})[0]
    assert "warmup_steps is 11, more than total_steps, 10" in mistakes(optimizer={"warmup_steps": 11})[0]


def test_an_iou_schedule_ends_at_the_end_of_training() -> None:
    assert "end at 1.0" in mistakes(reward={"iou_schedule": [[0.5, 0.5]]})[0]


def test_a_source_name_is_a_metric_label() -> None:
    (told,) = mistakes(sources={"hiyouga/Geometry3k": {"weight": 1.0}})
    assert told.startswith("sources.hiyouga/Geometry3k: ") and told.endswith("; it is called hiyouga_geometry3k here")


def test_a_job_written_as_toml_is_read_back_equal() -> None:
    spec = parse_job({**GOOD, "sources": {"chart": {"weight": 0.5}}, "optimizer": {"learning_rate_vit": 1e-7}})
    assert parse_job(parse_toml(write_toml(spec))) == spec


def test_a_missing_file_and_broken_toml_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadJob, match="does not exist"):
        read_job(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("model = ")
    with pytest.raises(BadJob, match="not TOML"):
        read_job(tmp_path / "bad.toml")


def test_derived_numbers_follow_from_the_job() -> None:
    spec = parse_job({**GOOD, "algorithm": {"prompts_per_step": 32, "samples_per_prompt": 8, "max_staleness": 1}})
    numbers = derived(spec, train_rows=640)
    assert numbers["completions_per_step"] == 256
    assert numbers["total_groups"] == 320
    assert numbers["max_groups_in_flight"] == 64
    assert numbers["epochs"] == 0.5
