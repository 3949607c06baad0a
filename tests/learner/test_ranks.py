"""DeepSpeed on two CPU ranks under torchrun, against the torch engine on one device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from services.learner.engines.crew import Open, Step, decode, encode
from services.learner.engines.torch import TorchEngine
from services.learner.intake.ingest import GroupIngest
from tests.learner.ranks_world import ALL, spec_of, steps, weights

LIMIT_S = 540.0
NAMES = ["frozen-1-float32", "frozen-2-float32", "frozen-3-float32", "trained-2-float32", "trained-3-float32"]
NAMES += ["trained-2-float32-2", "loraKl-3-float32", "kl-2-float32", "frozen-2-bfloat16", "frozen-3-bfloat16"]
NAMES += ["frozen-1-float32-begun", "trained-2-float32-begun", "loraKl-3-float32-begun", "frozen-3-bfloat16-begun"]
NAMES += ["frozen-1-bfloat16-begun", "offload-2-float32-begun"]
RESUMED = ["frozen-3-float32", "trained-2-float32", "frozen-2-bfloat16"]

pytestmark = pytest.mark.timeout(1200)


def torchrun(ranks: int, model: Path, out: Path, *names: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    root = Path(__file__).parents[2]
    return subprocess.run(
        [*command, str(Path(__file__).with_name("ranks_world.py")), str(model), str(out), *names],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory) -> Path:
    """What two ranks made of every name; then one rank alone went on from two of their checkpoints."""
    out = tmp_path_factory.mktemp("ranks")
    run = torchrun(2, model_folder, out, *NAMES, *(f"resume-{name}-two" for name in RESUMED), "refuse")
    assert run.returncode == 0, run.stderr[-3000:]
    run = torchrun(1, model_folder, out, "resume-frozen-3-float32-one", "resume-trained-2-float32-one")
    assert run.returncode == 0, run.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def alone(model_folder) -> Any:
    """The torch engine's metrics and weights for the same job, its steps begun where those of the ranks are."""
    found: dict[Any, tuple[list[dict[str, float]], dict[str, torch.Tensor]]] = {}

    def train(name: str):
        kind, _, dtype, *updates = name.split("-")
        key = kind, dtype, *updates
        if key not in found:
            spec = spec_of(str(model_folder), name, engine="torch", zero_stage=2, offload_parameters=False)
            engine = TorchEngine(GroupIngest(spec).pixels)
            engine.open(spec, None)
            begun = name.endswith("begun")
            found[key] = steps(engine, spec, range(1, ALL + 1), begun=begun), weights(engine)
        return found[key]

    return train


def differences(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> tuple[float, float]:
    """The largest and the mean absolute difference."""
    assert one.keys() == other.keys()
    apart = torch.cat([(one[name].float() - other[name].float()).abs().flatten() for name in one])
    return apart.max().item(), apart.mean().item()


@pytest.mark.parametrize("name", [name for name in NAMES if "float32" in name])
def test_two_ranks_give_the_weights_and_the_measures_of_one_device(trained, alone, name):
    stage = name.split("-")[1]
    metrics, expected = alone(name)
    largest, mean = differences(load_file(trained / f"{name}.safetensors"), expected)
    assert mean < 1e-7
    assert largest < (1e-5 if stage != "3" else 1e-3)
    for ours, theirs in zip(json.loads((trained / f"{name}.json").read_text()), metrics, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if "bfloat16" in name])
def test_in_bfloat16_they_agree_to_its_precision(trained, alone, name):
    metrics, expected = alone(name)
    _, mean = differences(load_file(trained / f"{name}.safetensors"), expected)
    assert mean < 1e-4  # the rate is 1e-3
    ours = json.loads((trained / f"{name}.json").read_text())
    assert ours[0]["grad_norm"] == pytest.approx(metrics[0]["grad_norm"], rel=0.01)


@pytest.mark.parametrize("name", RESUMED)
def test_ranks_that_go_on_from_a_checkpoint_end_with_the_bits_of_those_that_never_stopped(trained, name):
    one, other = (load_file(trained / f"{run}.safetensors") for run in (name, f"resume-{name}-two"))
    assert all(torch.equal(one[tensor], other[tensor]) for tensor in one)


@pytest.mark.parametrize("name", ["frozen-3-float32", "trained-2-float32"])
def test_another_number_of_ranks_goes_on_from_a_checkpoint(trained, name):
    one, other = (load_file(trained / f"{run}.safetensors") for run in (name, f"resume-{name}-one"))
    largest, mean = differences(one, other)
    assert largest < 1e-3 and mean < 1e-7


def test_each_rank_writes_its_share_of_a_checkpoint(trained):
    shares = [load_file(trained / "frozen-3-float32" / f"state-{rank}.safetensors").keys() for rank in (0, 1)]
    assert not shares[0] & shares[1]
    whole = {key.partition("/")[0] for key in shares[0] | shares[1]}
    assert whole == {"master", "exp_avg", "exp_avg_sq", "skipped_in_a_row", "adam_step"}
    assert (trained / "frozen-3-float32" / "model" / "config.json").exists()


def test_what_all_ranks_refuse_is_one_sentence_and_the_ranks_stay_together(trained):
    (sentence,) = json.loads((trained / "refuse.json").read_text())
    assert sentence.startswith("model '/does/not/exist' cannot be loaded")


def test_an_error_of_one_rank_ends_all_of_them_with_its_sentence(model_folder, tmp_path):
    run = torchrun(2, model_folder, tmp_path, "fail")
    assert run.returncode != 0
    assert json.loads((tmp_path / "fail.json").read_text()) == ["failed", "rank 1 has 3 bytes too few"]


@pytest.mark.parametrize(("body", "code"), [("return 3", 3), ("sys.exit(4)", 4), ("1 / 0", 1)])
def test_the_process_of_a_rank_ends_with_its_own_exit_code_and_without_finalisation(body, code):
    lines = [
        "import atexit, os, sys",
        "from services.learner.engines.process import run_rank",
        "atexit.register(os.abort)",
    ]
    lines += ["def main():", "    print('a last word', end='')", f"    {body}", "run_rank(main)"]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (code, "a last word")
    assert ("ZeroDivisionError" in run.stderr) == (body == "1 / 0")


def test_commands_are_bytes_and_come_back_equal(make_spec, make_engine, make_group):
    from services.learner.engine import StepWork

    spec = make_spec(reward={"iou_threshold": 0.5})
    opened = decode(encode(Open(spec, "folder")))
    assert opened == Open(spec, "folder")
    scored, images = make_group(3, rewards=[1.0, None])
    scored.group.prompt.reward.params["normalized"] = True
    group = make_engine().ingest(scored, images)
    stepped = decode(encode(Step(StepWork(2, 10, True, [group]))))
    (other,) = stepped.work.groups
    assert other.scored == group.scored and other.images == group.images
    assert other.positions.tolist() == group.positions.tolist() and other.positions.dtype == group.positions.dtype
    assert [row.token_ids.tolist() for row in other.responses] == [row.token_ids.tolist() for row in group.responses]
