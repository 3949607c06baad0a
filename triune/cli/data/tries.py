"""One shard tried by a model: a job that only evaluates, followed to its samples and stopped."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from services.data.curating.output import evaluated_rows
from services.data.curating.passes import Passes, count_passes, read_passes, write_passes
from shared.errors import TriuneError, UserError
from shared.jobs.document import parse_job, write_toml
from shared.jobs.flat import differences, flat
from shared.jobs.spec import JobSpec
from shared.runtime.settings import Settings
from shared.samples.files import DataFile
from triune.cli.client import Api

LOOK_S = 1.0
BOX_IOU = 0.5
"""IoU from which a box counts (V-Triune's paper, 5.1.1.1)."""
TOLD = "tries.json"
"""Lies beside the counts: how they were made."""
SAMPLES = Path("samples/eval-000000.parquet")
"""Where the monitor writes the evaluation of the first version."""
_ENDED = ("stopped", "done", "failed")


@dataclass(frozen=True)
class Tries:
    """How each row is tried: as a job of `spec` asks it, `number` times; right from the accuracy `right` on."""

    spec: JobSpec
    number: int
    right: float


def as_job(job: JobSpec | None, model: str | None, sampling: dict[str, Any]) -> JobSpec | None:
    """The job whose prompts, sampling and rewards the tries have; `model` and `sampling` go before its own.

    None when no model is named at all. Raises BadJob.
    """
    if job is None and model is None:
        return None
    document: dict[str, Any] = {"total_steps": 1, "data": {"train": ["."]}, "sampling": {}}
    if job is not None:
        document = msgspec.to_builtins(job)
    if model is not None:
        document["model"] = model
    document["sampling"] |= {key: value for key, value in sampling.items() if value is not None}
    return parse_job(document)


def tried(shard: DataFile, folder: Path, how: Tries, settings: Settings) -> list[Passes]:
    """The passes of every row of `shard`, from `folder` where they were counted before.

    Raises TriuneError when the evaluation ends without samples; UserError when its run folder is not on this machine,
    or `folder` holds the counts of other tries.
    """
    name = shard.place.name
    counts, job_file = folder / name, folder / f"{name}.job"
    _agree(folder, how)
    if counts.exists():
        return read_passes(counts)
    api = Api(settings)
    job = job_file.read_text() if job_file.exists() else _submit(api, shard, how)
    job_file.write_text(job)
    samples = _wait(api, job, settings.runs / job, job_file)
    passes = count_passes(samples, Path(shard.place.path), evaluated_rows(shard), threshold=how.right)
    write_passes(counts, passes)
    job_file.unlink()
    return passes


def _agree(folder: Path, how: Tries) -> None:
    """The counts of one folder are those of one way to try."""
    told = folder / TOLD
    asked = json.loads(json.dumps(flat(_document(how, [])) | {"--right": how.right}))
    if not told.exists():
        folder.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps(asked, indent=1))
        return
    for key, before, now in differences(json.loads(told.read_text()), asked):
        raise UserError(f"{folder} holds tries with {key} = {before}, not {now}: name another --out")


def _document(how: Tries, data: list[str]) -> dict[str, Any]:
    """A job whose first evaluation is all that counts; what prompts, completions and rewards depend on is as asked."""
    job = msgspec.to_builtins(how.spec)
    return {
        "name": "curate",
        "model": job["model"],
        "seed": job["seed"],
        "total_steps": 1,
        "data": job["data"] | {"train": data, "held_out": data, "epochs": 0},
        "algorithm": {"prompts_per_step": 1, "samples_per_prompt": 2},
        "sampling": job["sampling"],
        "rollout": job["rollout"],
        "reward": job["reward"] | {"iou_threshold": BOX_IOU, "audit": ""},
        "evaluation": {"samples_per_prompt": how.number, "temperature": how.spec.sampling.temperature},
    }


def _submit(api: Api, shard: DataFile, how: Tries) -> str:
    spec = parse_job(_document(how, [str(Path(shard.place.path).resolve())]))
    return str(api.submit(write_toml(spec))["job_id"])


def _wait(api: Api, job: str, run: Path, job_file: Path) -> Path:
    """The samples of the first evaluation, as soon as they are whole; the job is stopped then.

    A small job may have ended before the monitor has written them: they are missing once it has read all of it.
    """
    while not (run / SAMPLES).exists():
        found = api.get(f"/v1/jobs/{job}")
        is_read = found["on_file"] or found["reading_error"]
        if found["state"] in _ENDED and is_read and not (run / SAMPLES).exists():
            job_file.unlink()
            raise TriuneError(f"job {job} is {found['state']} without its evaluation: {found['error'] or 'stopped'}")
        if found["report"].get("evaluations") and not run.exists():
            raise UserError(f"the run folder {run} is not on this machine; TRIUNE_RUNS names where it is")
        time.sleep(LOOK_S)
    _stop(api, job)
    return run / SAMPLES


def _stop(api: Api, job: str) -> None:
    """It may end by itself meanwhile."""
    try:
        api.post(f"/v1/jobs/{job}/stop")
    except TriuneError:
        if api.get(f"/v1/jobs/{job}")["state"] not in _ENDED:
            raise
