"""The steps of an engine, one after the other; the coming one may be begun before all of its groups are there."""

from collections.abc import Callable, Sequence

from services.learner.attention.batch import Ready
from services.learner.engine import StepResult, StepWork
from services.learner.engines.passes import Passes


class Steps:
    """`make` gives the passes of a new step."""

    def __init__(self, make: Callable[[], Passes]) -> None:
        self._make = make
        self._begun: Passes | None = None

    def begin(self, groups: Sequence[Ready], *, importance: bool) -> None:
        """See `services.learner.engine.Overlapping`."""
        self._begun = self._begun or self._make()
        self._begun.begin(groups, importance=importance)

    def step(self, work: StepWork) -> StepResult:
        """See `services.learner.engine.Engine`; what was begun of another step is dropped."""
        begun, self._begun = self._begun, None
        if begun is not None and not begun.is_begun_of(work):
            begun.drop()
            begun = None
        return (begun or self._make()).run(work)
