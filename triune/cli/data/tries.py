"""One shard tried by a model: a job that only evaluates, followed to its samples and stopped."""

import time
from dataclasses import dataclass
from pathlib import Path

from services.data.curating.output import evaluated_rows
from services.data.curating.passes import Passes, count_passes, read_passes, write_passes
from shared.errors import TriuneError, UserError
from shared.jobs.spec import parse_job, write_toml
from shared.runtime.settings import Settings
from shared.samples.files import DataFile
from triune.cli.client import Api

LOOK_S = 1.0
BOX_IOU = 0.5
"""IoU from which a box counts (V-Triune's paper, 5.1.1.1)."""
SAMPLES = Path("samples/eval-000000.parquet")
"""Where the monitor writes the evaluation of the first version."""
_ENDED = ("stopped", "done", "failed")


@dataclass(frozen=True)
class Tries:
    """How each row is tried; a completion is right from the accuracy `right` on."""

    model: str
    number: int
    temperature: float
    max_new_tokens: int
    right: float


def tried(shard: DataFile, folder: Path, how: Tries, settings: Settings) -> list[Passes]:
    """The passes of every row of `shard`, from `folder` where they were counted before.

    Raises TriuneError when the evaluation ends without samples, UserError when its run folder is not on this machine.
    """
    name = shard.place.name
    counts, job_file = folder / name, folder / f"{name}.job"
    if counts.exists():
        return read_passes(counts)
    folder.mkdir(parents=True, exist_ok=True)
    api = Api(settings)
    job = job_file.read_text() if job_file.exists() else _submit(api, shard, how)
    job_file.write_text(job)
    samples = _wait(api, job, settings.runs / job, job_file)
    passes = count_passes(samples, Path(shard.place.path), evaluated_rows(shard), threshold=how.right)
    write_passes(counts, passes)
    job_file.unlink()
    return passes


def _submit(api: Api, shard: DataFile, how: Tries) -> str:
    """A job whose evaluation of the first version is all that counts."""
    path = str(Path(shard.place.path).resolve())
    spec = parse_job(
        {
            "name": "curate",
            "model": how.model,
            "total_steps": 1,
            "data": {"train": [path], "held_out": [path]},
            "algorithm": {"prompts_per_step": 1, "samples_per_prompt": 2},
            "sampling": {"max_new_tokens": how.max_new_tokens},
            "reward": {"iou_threshold": BOX_IOU},
            "evaluation": {"samples_per_prompt": how.number, "temperature": how.temperature},
        }
    )
    return str(api.submit(write_toml(spec))["job_id"])


def _wait(api: Api, job: str, run: Path, job_file: Path) -> Path:
    """The samples of the first evaluation, as soon as they are whole; the job is stopped then."""
    while not (run / SAMPLES).exists():
        found = api.get(f"/v1/jobs/{job}")
        if found["state"] in _ENDED:
            job_file.unlink()
            raise TriuneError(f"job {job} is {found['state']} without its evaluation: {found['error'] or 'stopped'}")
        if found["report"].get("evaluations") and not run.exists():
            raise UserError(f"the run folder {run} is not on this machine; TRIUNE_RUNS names where it is")
        time.sleep(LOOK_S)
    if api.get(f"/v1/jobs/{job}")["state"] not in _ENDED:
        api.post(f"/v1/jobs/{job}/stop")
    return run / SAMPLES
