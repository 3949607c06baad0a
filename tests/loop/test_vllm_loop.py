"""The whole loop with vLLM on a CPU: rollout in its own environment, everything else as ever; `make test-vllm`.

One deployment runs all jobs, one after the other; what vLLM sampled is on file with its tokens, and is compared with
what the learner's own weights make of it.
"""

import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
import torch

from shared.messages import unpack_floats, unpack_ints
from shared.models.hf.forward import plain_arguments
from shared.models.hf.loading import open_inputs, open_model
from tests.fakes import eventually
from tests.loop import system
from tests.loop.system import B, System, agrees
from tests.rollout.tiny import wider
from triune.demo import tiny_vlm
from triune.demo.tiny_vlm import Family
from triune.demo.warm_start import Recipe, Stage, warm_start
from triune.local.deployment import deployed

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800), pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3
AGREES = 1e-3
"""Of |Δ log-prob| between vLLM and the learner in float32: the mean over all tokens of a step, and each by its own."""
FAMILIES: tuple[Family, ...] = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    return {family: make_model(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def make_model(folder: Path, family: Family) -> Path:
    """A few steps of warm start, so that its answers differ in reward."""
    short = Stage(steps=4, learning_rate=1e-3, wrong_share=0.0, warmup_steps=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny_vlm, "tiny_config", wider(tiny_vlm.tiny_config))
        return warm_start(folder, recipe=Recipe(clean=short, mixed=short, family=family))


def command(service: str) -> Sequence[str]:
    python = ROOT / ".venv-vllm" / "bin" / "python" if service == "rollout" else sys.executable
    return [str(python), "-m", "triune", "serve", service]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, data: Path) -> AsyncIterator[System]:
    root = tmp_path_factory.mktemp("deployment")
    replicas = dict.fromkeys(("data", "rollout", "reward", "learner", "monitor"), 1)
    threads = dict.fromkeys(replicas, 1)
    async with deployed(root / "runs", root / "local", replicas=replicas, threads=threads, command=command) as made:
        found = System(made, root, data)
        with found.client:
            yield found


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "LIMIT_S", 900.0)


def submit(running: System, model: Path, *, steps: int = STEPS, **changes: Any) -> str:
    """Every weight is trained, at a rate that moves it far: stale ones would be off by more than a hundredfold."""
    changes = {
        "total_steps": steps,
        "model": str(model),
        "rollout": {"engine": "vllm"},
        "data": {"max_prompt_tokens": 512},
        "optimizer": {"learning_rate": 3e-3, "freeze": []},
        **changes,
    }
    return running.submit(**changes)


def series(running: System, job: str, name: str) -> dict[int, float]:
    """A metric of the run folder by step."""
    rows = pq.read_table(running.deployment.runs / job / "metrics.parquet").to_pylist()
    return {row["step"]: row["value"] for row in rows if row["name"] == name}


def samples(running: System, job: str) -> Iterator[dict[str, Any]]:
    """Every group on file that was answered."""
    for file in sorted((running.deployment.runs / job / "samples").glob("*.parquet")):
        yield from (row for row in pq.read_table(file).to_pylist() if row["completions"])


def vllm_says_what_the_learner_computes(running: System, job: str, steps: int) -> None:
    mismatch = series(running, job, "learner/mismatch_abs")
    assert set(mismatch) == set(range(1, steps + 1))
    assert max(mismatch.values()) < AGREES, mismatch
    assert max(series(running, job, "learner/grad_norm").values()) > 0.01


class Checkpoints:
    """A job's versions as any Hugging Face loader reads them; version 0 is the model folder."""

    def __init__(self, folder: Path, first: Path) -> None:
        self._folder, self._first = folder, first
        self._models: dict[int, Any] = {}
        self.inputs = open_inputs(str(first))

    def log_softmax(self, version: int, row: dict[str, Any], answer: np.ndarray) -> torch.Tensor:
        """(T, V), where the tokens (T,) of `answer` were sampled, by a plain forward pass over the whole sequence."""
        model = self._model(version)
        encoded = [(self._folder / "images" / image["digest"]).read_bytes() for image in row["images"]]
        images = [self.inputs.image(data, alone=len(encoded) == 1) for data in encoded]
        ids = np.concatenate([unpack_ints(row["prompt_ids"]), answer])
        with torch.no_grad():
            logits = model(**plain_arguments(self.inputs, ids, images, model.device)).logits[0, -len(answer) - 1 : -1]
        logits[:, self.inputs.banned] = -torch.inf
        return logits.log_softmax(-1)

    def _model(self, version: int) -> Any:
        if version not in self._models:
            source = self._folder / "checkpoints" / f"step-{version:06d}" / "model" if version else self._first
            self._models[version] = open_model(str(source), dtype=torch.float32).eval()
        return self._models[version]


def tokens_are_those_of_their_versions(running: System, job: str, model: Path) -> int:
    """Every token on file has its log-prob under the weights that its run names, and is their choice if it is greedy.

    Returns how many completions went on under new weights.
    """
    folder = running.deployment.runs / job
    checkpoints, mixed = Checkpoints(folder, model), 0
    for row in samples(running, job):
        for completion in row["completions"]:
            answer, start = unpack_ints(completion["token_ids"]).copy(), 0
            mixed += len(completion["versions"]) > 1
            for run in completion["versions"]:
                end = start + run["tokens"]
                logs = checkpoints.log_softmax(run["version"], row, answer)[start:end]
                chosen = torch.from_numpy(answer[start:end]).long()
                found = logs.gather(1, chosen[:, None])[:, 0].numpy()
                told = unpack_floats(completion["log_probs"])[start:end]
                np.testing.assert_allclose(told, found, atol=AGREES)
                if row["kind"] == "eval":
                    assert torch.equal(logs.argmax(-1), chosen)
                start = end
            assert start == len(answer)
    return mixed


@pytest.mark.parametrize(("family", "steps"), [("qwen2_5_vl", 2 * STEPS), ("qwen3_vl", STEPS)])
async def test_on_policy_each_version_answers_as_its_checkpoint_does_and_the_death_of_vllms_process_loses_nothing(
    running: System, models: dict[Family, Path], family: Family, steps: int
) -> None:
    """In the longer one it dies in the middle."""
    job = submit(
        running,
        models[family],
        steps=steps,
        evaluation={"every": 1},
        learner={"checkpoint_every": 1, "keep_checkpoints": steps},
    )
    if steps > STEPS:
        await running.until(job, lambda details: details["step"] >= 2)
        await kill_vllm(running)
    report = await running.finished(job)
    agrees(report, steps=steps)
    assert report["staleness"]["max"] == 0
    trained = running.trained(job)
    assert len(trained) == len(set(trained)) == steps * B
    vllm_says_what_the_learner_computes(running, job, steps)
    assert tokens_are_those_of_their_versions(running, job, models[family]) == 0


async def kill_vllm(running: System) -> None:
    """End vLLM's own process under the replica; returns once the replica has been started again."""

    async def is_back() -> bool:
        return running.deployment.supervisor.pids("rollout") not in ([rollout], [])

    (rollout,) = running.deployment.supervisor.pids("rollout")
    (core,) = [one for one in psutil.Process(rollout).children(recursive=True) if "EngineCore" in one.name()]
    core.send_signal(signal.SIGKILL)
    await eventually(is_back, system.LIMIT_S)


@pytest.mark.parametrize("family", FAMILIES)
async def test_off_policy_weights_change_under_what_is_generated(
    running: System, models: dict[Family, Path], family: Family
) -> None:
    """In five steps windows open while the learner computes: groups are being generated whenever a version comes."""
    steps = STEPS + 2
    job = submit(
        running,
        models[family],
        steps=steps,
        algorithm={"max_staleness": 2},
        sampling={"max_new_tokens": 200},
        rollout={"engine": "vllm", "groups_in_flight": B},
        learner={"checkpoint_every": 1, "keep_checkpoints": steps},
    )
    report = await running.finished(job)
    agrees(report, steps=steps)
    assert report["staleness"]["max"] <= report["staleness"]["bound"] == 2
    assert tokens_are_those_of_their_versions(running, job, models[family]) > 0
