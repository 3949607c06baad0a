"""Other places for a run's series, under V-Triune's names: TensorBoard, Weights & Biases, MLflow and Trackio.

A sink is fed from the store, step by step (`feeding.py`); what is written again after a kill is the same value of the
same step. It may raise anything, and take as long as it likes. The libraries are optional extras, loaded when a job
asks for them. Each reads its own variables (`WANDB_API_KEY`, `WANDB_MODE=offline`, `MLFLOW_TRACKING_URI`,
`TRACKIO_DIR`, `TRACKIO_SPACE_ID`).
"""

import contextlib
import importlib
import importlib.util
import io
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shared.errors import Unavailable

START_S = 30
PROJECT = "triune"
MLFLOW_AT_ONCE = 1000
"""Metrics of one call at most, by MLflow's own limit."""
_QUIET = threading.Lock()
"""The process has one standard output, and each job that is read a thread of its own."""
_JOB_TAG = "triune.job"
_OTHERWISE = re.compile(r"[^/\w.\- ]")
"""What MLflow's names of metrics may not hold."""


class Sink(Protocol):
    """Takes the values of one step; called from one thread."""

    def write(self, step: int, time: float, values: Mapping[str, float]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class TensorBoardSink:
    """Event files in `<run folder>/tensorboard`."""

    def __init__(self, folder: Path, job: str) -> None:
        del job
        self._writer = importlib.import_module("tensorboard.summary").Writer(str(folder / "tensorboard"))

    def write(self, step: int, time: float, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, wall_time=time)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A W&B run with the job's id; its x axis is `step`, since evaluations come after later steps."""

    def __init__(self, folder: Path, job: str) -> None:
        wandb = importlib.import_module("wandb")
        settings = wandb.Settings(init_timeout=START_S, console="off", silent=True)
        try:
            self._run = wandb.init(
                project=PROJECT, id=job, name=job, dir=str(folder), resume="allow", settings=settings
            )
        except wandb.errors.Error as error:
            raise Unavailable(f"W&B does not start for job {job}: {error}") from error
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, time: float, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step, "time": time})

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()


class MlflowSink:
    """A run of the MLflow experiment `triune`, where MLFLOW_TRACKING_URI says; else in `<run folder>/mlflow.db`."""

    def __init__(self, folder: Path, job: str) -> None:
        mlflow = importlib.import_module("mlflow")
        self._errors = mlflow.exceptions.MlflowException
        self._metric = mlflow.entities.Metric
        uri = None if mlflow.is_tracking_uri_set() else f"sqlite:///{folder / 'mlflow.db'}"
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            self._run = self._open(job)
        except self._errors as error:
            raise Unavailable(f"MLflow does not start for job {job}: {error}") from error

    def _open(self, job: str) -> str:
        """The job's run: an earlier monitor's, if there was one."""
        client = self._client
        known = client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else client.create_experiment(PROJECT)
        found = client.search_runs([experiment], filter_string=f"tags.`{_JOB_TAG}` = '{job}'", max_results=1)
        if found:
            client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        return str(client.create_run(experiment, run_name=job, tags={_JOB_TAG: job}).info.run_id)

    def write(self, step: int, time: float, values: Mapping[str, float]) -> None:
        metrics = [self._metric(_OTHERWISE.sub("_", name), v, int(1000 * time), step) for name, v in values.items()]
        try:
            for first in range(0, len(metrics), MLFLOW_AT_ONCE):
                self._client.log_batch(self._run, metrics=metrics[first : first + MLFLOW_AT_ONCE])
        except self._errors as error:
            raise Unavailable(f"MLflow takes no metrics: {error}") from error

    def flush(self) -> None:
        """Every batch is there when its call returns."""

    def close(self) -> None:
        try:
            self._client.set_terminated(self._run)
        except self._errors as error:
            raise Unavailable(f"MLflow does not end its run: {error}") from error


class TrackioSink:
    """A Trackio run with the job's id, where TRACKIO_DIR or TRACKIO_SPACE_ID says; `trackio show` draws it."""

    def __init__(self, folder: Path, job: str) -> None:
        del folder
        trackio = importlib.import_module("trackio")
        with _QUIET, contextlib.redirect_stdout(io.StringIO()):  # it greets
            self._run = trackio.init(
                PROJECT, name=job, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False
            )

    def write(self, step: int, time: float, values: Mapping[str, float]) -> None:
        self._run.log({**values, "finished_at": time}, step=step)  # "time" is a name of its own

    def flush(self) -> None:
        """Trackio sends by itself."""

    def close(self) -> None:
        with _QUIET, contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()


PACKAGES: Mapping[str, Sequence[str]] = {"mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""What a sink imports, where it is more than the package of its name."""
KINDS: Mapping[str, Any] = {
    "tensorboard": TensorBoardSink,
    "wandb": WandbSink,
    "mlflow": MlflowSink,
    "trackio": TrackioSink,
}


def missing_sinks(names: Sequence[str]) -> list[str]:
    """One sentence for each sink whose library is not installed."""
    missing = [name for name in names if not all(map(importlib.util.find_spec, PACKAGES.get(name, (name,))))]
    return [
        f"monitor.sinks names {name!r}, which is not installed: pip install {EXTRAS.get(name, name)}"
        for name in missing
    ]


EXTRAS: Mapping[str, str] = {"mlflow": "mlflow-skinny sqlalchemy alembic"}
