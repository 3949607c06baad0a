"""`triune trace ID ORDINAL`: one group's life, from the run folder alone."""

from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console

from shared.errors import UserError
from shared.runtime.settings import read_settings
from triune.cli.errors import exit_codes

out = Console(highlight=False, soft_wrap=True)


def trace(
    job: Annotated[str, typer.Argument(help="the job's id")],
    ordinal: Annotated[int, typer.Argument(min=0, help="the group's ordinal")],
    version: Annotated[int | None, typer.Option(min=0, help="a held-out group, as this version answered it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON line")] = False,
) -> None:
    """Print one group's life: times, replica, versions, rewards, and the step that trained on it."""
    with exit_codes():
        from services.monitor.analysis.trace import trace_group, trace_lines

        folder = read_settings().runs / job
        if not folder.is_dir():
            raise UserError(f"there is no run folder {folder}; set TRIUNE_RUNS to where the runs are")
        kind: Literal["train", "eval"] = "train" if version is None else "eval"
        found = trace_group(folder, ordinal, kind=kind, version=version)
        if as_json:
            out.print(msgspec.json.encode(found).decode(), markup=False)
            return
        for line in trace_lines(found):
            out.print(line, markup=False)
