"""Where a decode loop gets its groups from, token by token."""

from collections.abc import Sequence
from typing import Protocol

from services.rollout.engine import PreparedPrompt


class Feed(Protocol):
    """Asked from the engine's thread; never waits. Groups are numbered 0, 1, … in the order in which they are taken."""

    def ready(self, busy: int) -> int:
        """Completions of the groups that `take` would give."""
        ...

    def take(self, busy: int) -> Sequence[PreparedPrompt]:
        """The groups to begin now, beside `busy` completions that are being generated."""
        ...

    def cancelled(self) -> Sequence[int]:
        """Numbers of groups that are to be dropped; each is named once."""
        ...


class AllAtOnce:
    """A `Feed` of these groups and no other."""

    def __init__(self, prompts: Sequence[PreparedPrompt]) -> None:
        self._left = prompts

    def ready(self, busy: int) -> int:
        return sum(prompt.sampling.n for prompt in self._left)

    def take(self, busy: int) -> Sequence[PreparedPrompt]:
        taken, self._left = self._left, ()
        return taken

    def cancelled(self) -> Sequence[int]:
        return ()
