"""The whole loop with vLLM on a CPU: rollout in its own environment, everything else as ever; `make test-vllm`."""

import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from tests.loop import system
from tests.loop.system import B, System, agrees
from tests.rollout.tiny import wider
from triune.demo import tiny_vlm
from triune.demo.tiny_vlm import Family
from triune.demo.warm_start import Recipe, Stage, warm_start
from triune.local.deployment import deployed

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3
AGREES = 1e-3
"""Of |Δ log-prob| between vLLM and the learner in float32, the mean over all tokens."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("wide"), "qwen2_5_vl")


def make_model(folder: Path, family: Family) -> Path:
    """A few steps of warm start, so that its answers differ in reward."""
    short = Stage(steps=4, learning_rate=1e-3, wrong_share=0.0, warmup_steps=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny_vlm, "tiny_config", wider(tiny_vlm.tiny_config))
        return warm_start(folder, recipe=Recipe(clean=short, mixed=short, family=family))


def command(service: str) -> Sequence[str]:
    python = ROOT / ".venv-vllm" / "bin" / "python" if service == "rollout" else sys.executable
    return [str(python), "-m", "triune", "serve", service]


@contextlib.asynccontextmanager
async def running(tmp_path: Path, model: Path, data: Path) -> AsyncIterator[System]:
    replicas = dict.fromkeys(("data", "rollout", "reward", "learner", "monitor"), 1)
    threads = dict.fromkeys(replicas, 1)
    folders = (tmp_path / "runs", tmp_path / "local")
    async with deployed(*folders, replicas=replicas, threads=threads, command=command) as deployment:
        made = System(deployment, model, data)
        with made.client:
            yield made


def submit(system: System, *, steps: int = STEPS, **changes: Any) -> str:
    rates = {"learning_rate": 3e-3, "freeze": []}
    return system.submit(
        total_steps=steps, rollout={"engine": "vllm"}, data={"max_prompt_tokens": 512}, optimizer=rates, **changes
    )


def series(system: System, job: str, name: str) -> dict[int, float]:
    """A metric of the run folder by step."""
    rows = pq.read_table(system.deployment.runs / job / "metrics.parquet").to_pylist()
    return {row["step"]: row["value"] for row in rows if row["name"] == name}


def vllm_says_what_the_learner_computes(system: System, job: str, steps: int) -> None:
    """Every weight is trained at a rate that moves it far: stale ones would be off by more than a hundredfold."""
    mismatch = series(system, job, "learner/mismatch_abs")
    assert set(mismatch) == set(range(1, steps + 1))
    assert max(mismatch.values()) < AGREES, mismatch
    assert max(series(system, job, "learner/grad_norm").values()) > 0.01


async def test_vllm_samples_what_the_learner_computes_and_the_death_of_its_process_loses_nothing(
    tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On-policy; long enough that vLLM's process dies in the middle."""
    monkeypatch.setattr(system, "LIMIT_S", 900.0)
    steps = 20
    async with running(tmp_path, model, data) as made:
        job = submit(made, steps=steps)
        await made.until(job, lambda details: details["step"] >= 3)
        (rollout,) = made.deployment.supervisor.pids("rollout")
        (core,) = [one for one in psutil.Process(rollout).children(recursive=True) if "EngineCore" in one.name()]
        core.send_signal(signal.SIGKILL)
        report = await made.finished(job)
        assert made.deployment.supervisor.pids("rollout") != [rollout]
        assert report["state"] == "done"
        agrees(report, steps=steps)
        assert report["staleness"]["max"] == 0
        trained = made.trained(job)
        assert len(trained) == len(set(trained)) == steps * B
        vllm_says_what_the_learner_computes(made, job, steps)


async def test_a_qwen3_vl_learns_as_vllm_samples_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepStack: features of several levels of the vision tower, which is trained, too."""
    monkeypatch.setattr(system, "LIMIT_S", 900.0)
    async with running(tmp_path, make_model(tmp_path / "wide", "qwen3_vl"), data) as made:
        job = submit(made)
        report = await made.finished(job)
        agrees(report, steps=STEPS)
        assert report["staleness"]["max"] == 0
        vllm_says_what_the_learner_computes(made, job, STEPS)


async def test_three_steps_off_policy_with_weights_that_change_in_flight(
    tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "LIMIT_S", 900.0)
    async with running(tmp_path, model, data) as made:
        job = submit(made, algorithm={"max_staleness": 2})
        report = await made.finished(job)
        agrees(report, steps=STEPS)
        assert report["staleness"]["max"] <= report["staleness"]["bound"] == 2
