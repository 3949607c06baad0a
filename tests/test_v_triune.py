"""V-Triune's variables become a job file, and each of them is accounted for."""

import tomllib
from pathlib import Path

import pytest

from shared.errors import BadJob
from shared.jobs.document import parse_job
from shared.jobs.spec import JobSpec
from tests.monitor.stage import write_data
from tools.v_triune_page import PAGE, page
from triune.v_triune import VARIABLES, read_script, translate, write_job

SCRIPT = """
#!/bin/bash
export NUM_NODES=${NUM_NODES:-1}
export EXP_NAME=${EXP_NAME:-"v_triune"}   # the run
export DATA_TRAIN_FILE=${DATA_TRAIN_FILE:-"[/data/a.parquet,/data/b.parquet]"}
export DATA_TRAIN_BATCH_SIZE=1024
export ACTOR_PPO_GLOBAL_BSZ=128
export ACTOR_LR="1e-6"
export ACTOR_LR_VIT=${ACTOR_LR}
export ACTOR_LR_FREEZE="[vit,connector]"
export ENABLE_DUAL_CLIP=False
export TRAIN_TEST_FREQ=-5
export ACTOR_LOAD_PATH=/models/Qwen2.5-VL-7B-Instruct
export TRAIN_TOTAL_EPOCHS=3
export CUSTOM_KNOB=7
python train.py $OPTIONS
"""


def test_each_of_the_61_variables_is_accounted_for_once() -> None:
    assert len(VARIABLES) == len({variable.name for variable in VARIABLES}) == 61
    assert all(variable.keys or variable.note.startswith("none") for variable in VARIABLES)


def test_each_key_is_one_of_the_job_file() -> None:
    known = {field for field in JobSpec.__struct_fields__}
    tables = {"data", "algorithm", "sampling", "optimizer", "learner", "rollout", "reward", "evaluation", "monitor"}
    import msgspec

    for variable in VARIABLES:
        for key in variable.keys:
            table, _, name = key.rpartition(".")
            kind = {field.name: field.type for field in msgspec.structs.fields(JobSpec)}.get(table) if table else None
            assert (name in kind.__struct_fields__) if table in tables else key in known, key  # type: ignore[union-attr]


def test_a_script_is_read_with_its_defaults_and_its_references(tmp_path: Path) -> None:
    (tmp_path / "train.sh").write_text(SCRIPT)
    values = read_script(tmp_path / "train.sh")
    assert values["EXP_NAME"] == "v_triune"
    assert values["ACTOR_LR_VIT"] == "1e-6"
    assert values["DATA_TRAIN_FILE"] == "[/data/a.parquet,/data/b.parquet]"


def test_the_job_has_the_keys_of_the_variables_and_names_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "train.sh").write_text(SCRIPT)
    imported = translate(read_script(tmp_path / "train.sh"))
    job = tomllib.loads(write_job(imported))
    assert job["name"] == "v-triune"
    assert job["algorithm"] == {"prompts_per_step": 1024, "updates_per_step": 8, "dual_clip": 0.0}
    assert job["optimizer"] == {"learning_rate": 1e-6, "learning_rate_vit": 1e-6, "freeze": ["vit", "connector"]}
    assert job["evaluation"] == {"every": 0}
    assert job["data"] == {"train": ["/data/a.parquet", "/data/b.parquet"], "epochs": 3}
    assert "total_steps" not in job
    assert any(note.startswith("total_steps is missing") for note in imported.notes)
    assert "CUSTOM_KNOB: not a variable of V-Triune" in imported.notes
    assert any(note.startswith("NUM_NODES=1: none") for note in imported.notes)


def test_steps_follow_from_the_rows_where_the_files_are_here(tmp_path: Path) -> None:
    write_data(tmp_path / "a.parquet")  # one row
    values = {
        "ACTOR_LOAD_PATH": "org/model",
        "DATA_TRAIN_FILE": f"[{tmp_path}/a.parquet]",
        "DATA_TRAIN_BATCH_SIZE": "2",
        "TRAIN_TOTAL_EPOCHS": "40",
        "LR_WARMUP_STEPS_RATIO": "0.05",
    }
    job = parse_job(tomllib.loads(write_job(translate(values))))
    assert job.total_steps == 20  # 40 passes over one row, two prompts a step
    assert job.optimizer.warmup_steps == 1


def test_every_value_that_cannot_be_read_is_named() -> None:
    with pytest.raises(BadJob) as found:
        translate({"ROLLOUT_N": "eight", "ALGO_ADV_ESTIMATOR": "gae", "ACTOR_PPO_GLOBAL_BSZ": "100"})
    assert len(found.value.mistakes) == 2
    with pytest.raises(BadJob, match="a divisor of DATA_TRAIN_BATCH_SIZE, 1024"):
        translate({"ACTOR_PPO_GLOBAL_BSZ": "100"})


def test_the_page_shows_the_same_table() -> None:
    assert PAGE.read_text() == page(), "run: python -m tools.v_triune_page"
