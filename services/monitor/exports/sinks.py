"""Other places for a run's series: TensorBoard event files and Weights & Biases, under V-Triune's names.

A sink is fed from the store, step by step, and the store remembers how far it got; what is written again after a kill
is the same value of the same step. The libraries are optional extras, loaded when a job asks for them. W&B reads its
own variables (`WANDB_API_KEY`, `WANDB_MODE=offline`).
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from services.monitor.history.catalog import v_triune_name
from services.monitor.history.queries import reading
from services.monitor.history.series import Where
from shared.errors import Unavailable

FED_STEP, FED_VERSION = "sinks.step", "sinks.version"
"""Facts in the store: the last training step and the last evaluated version that the sinks have."""
STEPS_AT_ONCE = 200
START_S = 30


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
                project="triune", id=job, name=job, dir=str(folder), resume="allow", settings=settings
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


_KINDS: Mapping[str, Any] = {"tensorboard": TensorBoardSink, "wandb": WandbSink}


def missing_sinks(names: Sequence[str]) -> list[str]:
    """One sentence for each sink whose library is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return [f"monitor.sinks names {name!r}, which is not installed: pip install {name}" for name in missing]


class Sinks:
    """The sinks of one job; with none of them, nothing happens."""

    def __init__(self, folder: Path, job: str, names: Sequence[str]) -> None:
        self._folder = folder
        self._sinks: list[Sink] = [_KINDS[name](folder, job) for name in names]

    def feed(self) -> dict[str, str]:
        """Write what the store has and the sinks have not; returns the facts to remember in the store."""
        fed: dict[str, str] = {}
        if not self._sinks:
            return fed
        for fact, step, at, values in self._new():
            for sink in self._sinks:
                sink.write(step, at, values)
            fed[fact] = str(step)
        for sink in self._sinks:
            sink.flush()
        return fed

    def _new(self) -> Iterator[tuple[str, int, float, dict[str, float]]]:
        with reading(self._folder) as reader:
            if reader is None:
                return
            for step in reader.steps(int(reader.meta(FED_STEP) or 0), STEPS_AT_ONCE):
                points = reader.step_points(step["step"], evaluated=False)
                yield FED_STEP, step["step"], step["finished_at"], _named(points)
            last = int(reader.meta(FED_VERSION) or -1)
            for done in reader.evaluations():
                if done["version"] > last:
                    points = reader.step_points(done["version"], evaluated=True)
                    yield FED_VERSION, done["version"], done["finished_at"], _named(points)

    def close(self) -> None:
        for sink in self._sinks:
            with contextlib.suppress(Unavailable):
                sink.close()


def _named(points: Sequence[tuple[str, Where, float]]) -> dict[str, float]:
    return {v_triune_name(name, where): value for name, where, value in points}
