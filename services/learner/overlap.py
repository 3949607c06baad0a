"""Portions of the next step, computed while its last groups are still generated.

The learner waits for the longest answer of a step, long after most of its groups have come. What has come is computed
meanwhile: the gradient is a sum over tokens, so that only the last groups are left to compute once they are there. In
which order groups come depends on the moment; a step tells its portions (`StepDone.portions`), so that a restart and a
replay sum in the same order, to the same bits. Two runs of a job differ by rounding, which is why it is off on a CPU
unless the job says otherwise.
"""

import math
import time

import torch

from services.learner.attention.batch import Ready
from services.learner.engine import Engine, Overlapping
from services.learner.publishing.versions import InCompute
from services.learner.steps.assembler import Assembler
from services.learner.steps.course import Course
from shared.jobs.rules import not_overlapping
from shared.jobs.spec import JobSpec
from shared.messages import Portion

SHARE = 1 / 4
"""The share of a step's groups in a portion: a last group that comes meanwhile waits for no more than that."""


class Overlap:
    """What is computed of the next step before all of its groups are there."""

    def __init__(
        self, spec: JobSpec, engine: Engine, assembler: Assembler[Ready], course: Course, in_compute: InCompute
    ) -> None:
        self._engine = engine if isinstance(engine, Overlapping) and overlaps(spec) else None
        self._assembler, self._course, self._in_compute = assembler, course, in_compute
        self._size = math.ceil(SHARE * spec.algorithm.prompts_per_step)
        self._portions: list[Portion] = []
        self._importance = False

    @property
    def is_on(self) -> bool:
        """Whether this job's steps are begun before all of their groups are there."""
        return self._engine is not None

    async def go_on(self) -> bool:
        """Compute a portion of what has arrived; False: there is nothing to compute now."""
        engine = self._engine
        if engine is None or self._course.is_behind:
            return False
        begun, certain = {ordinal for one in self._portions for ordinal in one.ordinals}, self._assembler.certain()
        fresh = [ready for ordinal, ready in certain.items() if ordinal not in begun][: self._size]
        if len(fresh) < self._size:
            return False
        importance, started_at, began = self._course.importance(certain), time.time(), time.monotonic()
        if begun and importance != self._importance:
            return False  # `take` drops them
        await self._in_compute(lambda: engine.begin(fresh, importance=importance))
        finished_at = started_at + time.monotonic() - began
        self._portions.append(Portion([ready.ordinal for ready in fresh], started_at, finished_at))
        self._importance = importance
        return True

    def take(self, *, importance: bool) -> tuple[list[Portion], float]:
        """The portions of the step that is made now, and the seconds that went into such.

        No portions where the step's tokens are to be weighed otherwise after all.
        """
        portions, self._portions = self._portions, []
        spent_s = sum(portion.finished_at - portion.started_at for portion in portions)
        return (portions if importance == self._importance else []), spent_s


def overlaps(spec: JobSpec) -> bool:
    """Whether the job's steps are begun before all of their groups are there."""
    setting = spec.learner.overlap
    return setting == "on" or (setting == "auto" and torch.cuda.is_available() and not not_overlapping(spec))
