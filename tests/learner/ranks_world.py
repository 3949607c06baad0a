"""Runs under torchrun: `ranks_world.py MODEL OUT SCRIPT…` has rank 0 do what each SCRIPT says, the others follow.

Every script leaves its metrics in OUT/<script>.json and its weights in OUT/<script>.safetensors. `fail`, alone, has
rank 1 fail by itself.
"""

import asyncio
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from services.learner.app import watch_ranks
from services.learner.engine import SCOPES, DoesNotFit, Engine, Overlapping, StepWork
from services.learner.engines.crew import Crew, dismiss, follow
from services.learner.engines.deepspeed import DeepSpeedEngine
from services.learner.engines.process import run_rank
from services.learner.engines.ranks import Ranks
from services.learner.intake.ingest import GroupIngest
from shared.bus.memory.bus import MemoryBus
from shared.errors import BadJob
from shared.jobs.document import parse_job
from shared.jobs.record import JobRecord, JobStore, State
from shared.jobs.spec import JobSpec
from shared.runtime.settings import read_settings
from tests.learner.conftest import scored_group
from tests.published import Tensors

SHAPES = [
    {"lengths": [3, 9, 1, 5], "rewards": [1.0, 0.0, 0.5, 0.2]},
    {"sizes": [(112, 56)], "text": 9, "lengths": [2, 14], "rewards": [0.0, 1.0]},
    {"lengths": [4, 4], "rewards": [0.5, 0.5]},
    {"sizes": [], "lengths": [6, 3], "rewards": [1.0, 0.0]},
    {"text": 1, "lengths": [2, 8, 3], "rewards": [1.0, 0.0, 0.3]},
    {"sizes": [], "text": 3, "lengths": [5, 7], "rewards": [0.0, 1.0]},
]
ALL = 5
VISION = ["vit", "connector"]
KINDS: dict[str, dict[str, dict[str, object]]] = {
    "frozen": {"optimizer": {"freeze": VISION}},
    "trained": {"optimizer": {"freeze": []}},
    "lora": {"optimizer": {"freeze": VISION}, "learner": {"lora_rank": 4}},
    "kl": {"optimizer": {"freeze": VISION}, "algorithm": {"kl_coefficient": 0.5}},
    "loraKl": {
        "optimizer": {"freeze": VISION},
        "learner": {"lora_rank": 4},
        "algorithm": {"kl_coefficient": 0.5},
    },
    "offload": {"optimizer": {"freeze": VISION}, "learner": {"optimizer_state": "cpu"}},
    "offloadAll": {"optimizer": {"freeze": VISION}, "learner": {"optimizer_state": "cpu", "offload_parameters": True}},
}


def spec_of(model: str, name: str, **learner: object) -> JobSpec:
    """The job of `name`: `<kind>-<stage>-<dtype>[-<updates>]`; `begun` for the updates: one, begun in portions."""
    kind, stage, dtype, *updates = name.split("-")
    tables = KINDS[kind]
    common = {"updates_per_step": int(updates[0]) if updates and updates[0] != "begun" else 1, "prompts_per_step": 6}
    placed = {"tokens_per_batch": 40, "engine": "deepspeed", "zero_stage": int(stage), "dtype": dtype}
    return parse_job(
        {
            "model": model,
            "total_steps": 10,
            "data": {"train": ["unused"]},
            "algorithm": common | tables.get("algorithm", {}),
            "optimizer": {"learning_rate": 1e-3} | tables["optimizer"],
            "learner": placed | tables.get("learner", {}) | learner,
        }
    )


def steps(engine: Engine, spec: JobSpec, numbers: range, *, begun: bool = False) -> list[dict[str, float]]:
    """Metrics of these steps. `begun`: two portions are computed first, which step 2 drops, since it weighs tokens."""
    ingest = GroupIngest(spec)
    metrics = []
    for number in numbers:
        groups = [ingest.ready(*scored_group(10 * number + index, **shape)) for index, shape in enumerate(SHAPES)]
        portions = [[groups[3], groups[0]], [groups[4]]] if begun else []
        for portion in portions:
            assert isinstance(engine, Overlapping)
            engine.begin(portion, importance=number != 2)
        told = [[group.ordinal for group in portion] for portion in portions if number != 2]
        metrics.append(engine.step(StepWork(number, 10, True, groups, told)).metrics)
    return metrics


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for scope in SCOPES:
        tensors = Tensors()
        engine.export(tensors, scope=scope)
        found |= tensors
    return found


class FailsOnce:
    """Passes everything on to an engine; on rank 1, step 2 does not fit."""

    def __init__(self, engine: DeepSpeedEngine, rank: int) -> None:
        self._engine, self._rank = engine, rank

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def step(self, work: StepWork) -> object:
        if work.step == 2 and self._rank == 1:
            raise DoesNotFit("rank 1 has 3 bytes too few")
        return self._engine.step(work)


def train(crew: Crew, model: str, out: Path, name: str) -> list[dict[str, float]]:
    """The job of `name`; its checkpoint is left in `out`/<name>."""
    spec = spec_of(model, name)
    crew.open(spec, None)
    begun = name.endswith("begun")
    metrics = steps(crew, spec, range(1, 4), begun=begun)
    folder = out / name
    folder.mkdir()
    crew.save(folder)
    metrics += steps(crew, spec, range(4, ALL + 1), begun=begun)
    save_file(weights(crew), out / f"{name}.safetensors")
    crew.close()
    return metrics


def resume(crew: Crew, model: str, out: Path, name: str) -> list[dict[str, float]]:
    """`resume-<name>-<label>`: continue from the checkpoint of `name`."""
    name, _, label = name.removeprefix("resume-").rpartition("-")
    spec = spec_of(model, name)
    crew.open(spec, out / name)
    metrics = steps(crew, spec, range(4, ALL + 1))
    save_file(weights(crew), out / f"resume-{name}-{label}.safetensors")
    crew.close()
    return metrics


def refuse(crew: Crew, model: str, out: Path, name: str) -> list[str]:
    """A model that is not there is refused on all ranks with one sentence, and the crew goes on."""
    try:
        crew.open(spec_of("/does/not/exist", "trained-2-float32"), None)
    except BadJob as error:
        return list(error.mistakes)
    return []


class JobsOnDisk(JobStore):
    """Leaves what a job came to in `folder`/fail.json."""

    def __init__(self, folder: Path) -> None:
        super().__init__(MemoryBus())
        self._folder = folder

    async def move(self, job: str, state: State, error: str = "") -> JobRecord:
        record = await super().move(job, state, error)
        (self._folder / "fail.json").write_text(json.dumps([record.state, record.error]))
        return record


async def fail(ranks: Ranks, crew: Crew, model: str, out: Path) -> None:
    """Rank 1 alone fails in step 2, while this one waits for it within a call."""
    spec = spec_of(model, "trained-2-float32")
    jobs = JobsOnDisk(out)
    await jobs.create(JobRecord(id="job", spec=spec, state="running", created_at=0.0))

    def train() -> None:
        crew.open(spec, None)
        steps(crew, spec, range(1, 3))

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(train))
        group.create_task(watch_ranks(jobs, ranks))


SCRIPTS: dict[str, Callable[[Crew, str, Path, str], object]] = {"resume": resume, "refuse": refuse}


def main(model: str, out: Path, names: list[str]) -> int:
    torch.set_num_threads(1)
    settings = read_settings()
    assert settings.rank is not None
    ranks = Ranks(settings.rank)
    fails = names == ["fail"]

    def engine() -> Engine:
        own = DeepSpeedEngine(ranks)
        return FailsOnce(own, ranks.rank) if fails else own  # type: ignore[return-value]

    if ranks.rank > 0:
        return follow(ranks, engine)
    if fails:
        asyncio.run(fail(ranks, Crew(ranks, engine()), model, out))
    for name in names:
        found = SCRIPTS.get(name.split("-")[0], train)(Crew(ranks, engine()), model, out, name)
        (out / f"{name}.json").write_text(json.dumps(found))
    dismiss(ranks)
    return 0


if __name__ == "__main__":
    run_rank(functools.partial(main, sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
