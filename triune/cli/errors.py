"""How a command ends: 0 done, 1 failed, 2 bad input, each with one clear sentence on standard error."""

import contextlib
from collections.abc import Iterator

import typer
from rich.console import Console

from shared.errors import TriuneError, UserError

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

console = Console(stderr=True, soft_wrap=True, highlight=False)


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn the errors of a command into its exit code and sentence."""
    try:
        yield
    except UserError as error:
        console.print(f"[red]error:[/] {_escaped(error)}")
        raise typer.Exit(BAD_INPUT) from error
    except TriuneError as error:
        console.print(f"[red]failed:[/] {_escaped(error)}")
        raise typer.Exit(FAILED) from error


def _escaped(error: Exception) -> str:
    return str(error).replace("[", "\\[")
