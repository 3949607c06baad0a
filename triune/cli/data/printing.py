"""What the data commands print: lines on standard output that stay whole, a bar on standard error that vanishes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from shared.samples.files import Problem

out = Console(highlight=False, markup=False, soft_wrap=True)


def progress(*, quiet: bool) -> Progress:
    """A bar on standard error that vanishes at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet)


class Lines:
    """Tells problems as they come; those of a file whose rows all have the same one come once, with their number."""

    def __init__(self, tell: "Callable[[Problem], None]") -> None:
        self._tell = tell
        self._file = -1
        # the file's problems so far, while all its rows have the same one
        self._alike: list[Problem] | None = None

    def add(self, file: int, looked_at: int, problems: "Sequence[Problem]") -> None:
        """Those of the next `looked_at` rows of a file, which all come before the next file's."""
        if file != self._file:
            self.end()
            self._file, self._alike = file, []
        held = [*(self._alike or []), *problems]
        alike = all(one.row is not None and one.reason == held[0].reason for one in problems)
        if self._alike is not None and alike and len(problems) == looked_at:
            self._alike = held
        else:
            self._alike = None
            self._tell_all(held)

    def end(self) -> None:
        """Tells what is left."""
        held = self._alike or []
        if len(held) > 1:
            held = [replace(held[0], row=None, reason=f"each of {len(held)} rows: {held[0].reason}")]
        self._tell_all(held)
        self._alike = None

    def _tell_all(self, problems: "Sequence[Problem]") -> None:
        for problem in problems:
            self._tell(problem)
