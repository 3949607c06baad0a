"""Training steps made again, from the weights, the groups and the settings that they were made of, and of nothing else.

With the torch engine on a CPU, and as many threads as then, the bits are the same; elsewhere they differ by rounding.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from services.learner.algorithms.step import over_step
from services.learner.checkpoints.checkpoint import load_at
from services.learner.engine import StepWork
from services.learner.engines.torch import TorchEngine
from services.learner.intake.arrival import check_group
from services.learner.intake.ingest import GroupIngest
from services.learner.publishing.exports import Exports
from services.learner.steps.changes import value_at
from shared.blobs.store import BlobStore
from shared.blobs.weights import WeightsStore
from shared.errors import UserError
from shared.jobs.record import Change
from shared.jobs.spec import JobSpec
from shared.messages import Scored


@dataclass(frozen=True)
class Again:
    """What a step made: its metrics by name, and one advantage a completion (NaN: masked) by ordinal."""

    metrics: dict[str, float]
    advantages: dict[int, list[float]]


class Replay:
    """One job's steps, one after the other; a context manager. Its calls compute."""

    def __init__(
        self, spec: JobSpec, changes: Sequence[Change], checkpoint: Path | None, threads: int | None = None
    ) -> None:
        """Begin behind `checkpoint`, or with the job's model (None); raises UserError, BadJob, Corrupt."""
        if spec.learner.engine != "torch":
            raise UserError(f"learner.engine is {spec.learner.engine!r}; a replay knows the torch engine alone")
        if spec.distillation.model:
            raise UserError("distillation.model is set; a run folder does not hold what the teacher said of each token")
        if threads is not None and not torch.cuda.is_available():
            torch.set_num_threads(threads)
        self._spec, self._changes = spec, changes
        self._ingest = GroupIngest(spec)
        self._engine = TorchEngine(self._ingest.pixels)
        self._undo = ExitStack()
        self._undo.callback(self._engine.close)
        self.facts = self._engine.open(spec, load_at(checkpoint).folder if checkpoint is not None else None)

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def step(
        self,
        number: int,
        groups: Sequence[tuple[Scored, Sequence[bytes]]],
        *,
        importance: bool,
        portions: Sequence[Sequence[int]],
    ) -> Again:
        """Make step `number` of groups with their images, by ordinal; raises BadSample, Diverged."""
        ready = []
        for scored, images in groups:
            check_group(scored)
            ready.append(self._ingest.ready(scored, images))
        made = over_step(ready, self._spec.algorithm)
        total = value_at(self._spec, self._changes, "total_steps", number)
        result = self._engine.step(StepWork(number, total, importance, made, portions))
        return Again(result.metrics, {group.ordinal: group.advantages.tolist() for group in made})

    def digest(self) -> str:
        """The digest of the weights as they are now, as a version of them would be announced."""
        with TemporaryDirectory() as folder:
            blobs = BlobStore((Path(folder) / "blobs").as_uri())
            exports = Exports(self._engine, blobs, WeightsStore(blobs, Path(folder) / "weights"), anchor_every=1)
            snapshot = exports.snapshot()
            try:
                return exports.store(snapshot, version=0).digest
            finally:
                snapshot.discard()
                exports.close()
