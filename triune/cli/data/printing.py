"""What the data commands print: lines on standard output that stay whole, a bar on standard error that vanishes."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

out = Console(highlight=False, markup=False, soft_wrap=True)


def progress(*, quiet: bool) -> Progress:
    """A bar on standard error that vanishes at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet)
