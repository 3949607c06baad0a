"""`triune job list` and `triune job show`: which jobs there are, and all that is known of one."""

from itertools import islice
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.errors import UserError
from shared.jobs.record import State
from shared.runtime.settings import read_settings
from triune.cli.client import Api
from triune.cli.errors import exit_codes
from triune.cli.jobs.arguments import Id, Json
from triune.cli.lines import say_json

out = Console(highlight=False)


def list_jobs(
    state: Annotated[str | None, typer.Option(help="only jobs in this state, such as running")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many of the newest")] = None,
    as_json: Json = False,
) -> None:
    """All jobs, oldest first."""
    with exit_codes():
        if state not in (None, *get_args(State)):
            raise UserError(f"--state is {state!r}; expected one of {', '.join(get_args(State))}")
        newest = (job for job in Api(read_settings()).jobs() if state in (None, job["state"]))
        jobs = list(islice(newest, limit))[::-1]
        if as_json:
            for job in jobs:
                say_json(job)
            return
        if not jobs:
            out.print(
                "no jobs yet; submit one with `triune job submit FILE`" if state is None else f"no job is {state}"
            )
            return
        table = Table(box=None)
        for column in ("job", "state", "step"):
            table.add_column(column, no_wrap=True)
        table.add_column("reason")  # alone gives way, so that a job is one line
        for job in jobs:
            reason = Text(" ".join(job["error"].split()), no_wrap=True, overflow="ellipsis")
            table.add_row(job["job_id"], job["state"], f"{job['step']}/{job['total_steps']}", reason)
        out.print(table)


def show(job: Id, as_json: Json = False) -> None:
    """All that is known of a job, as JSON; with --json on one line."""
    with exit_codes():
        found = Api(read_settings()).get(f"/v1/jobs/{job}")
        say_json(found) if as_json else out.print_json(data=found)
