"""`triune data …`: draw a data set, check data files."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared.errors import TriuneError
from shared.samples.files import Problem
from triune.cli.errors import BAD_INPUT, console, exit_codes

app = typer.Typer(no_args_is_help=True, help="Draw a data set, check data files.")
out = Console(highlight=False, markup=False, soft_wrap=True)


@app.command()
def make(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="folder to write train/ and test/ into")],
    seed: Annotated[int, typer.Option(min=0, help="another seed draws another data set")] = 0,
    train: Annotated[int, typer.Option(min=1, help="training samples of each task")] = 800,
    held_out: Annotated[int, typer.Option(min=1, help="held-out samples of each task")] = 192,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable lines")] = False,
) -> None:
    """Draw eight visual tasks as parquet files in the schema of Orsta-Data-47k, one source each."""
    with exit_codes():
        from triune.demo.dataset import make as draw
        from triune.demo.tasks import TASKS

        with _progress(quiet=as_json) as progress:
            bar = progress.add_task("drawing", total=len(TASKS) * (train + held_out))
            try:
                files = draw(
                    folder,
                    seed=seed,
                    train_per_task=train,
                    held_out_per_task=held_out,
                    progress=lambda rows: progress.advance(bar, rows),
                )
            except OSError as error:
                raise TriuneError(f"the data set cannot be written to {folder}: {error.strerror or error}") from error
        if as_json:
            paths = {"train": [str(path) for path in files.train], "held_out": [str(path) for path in files.held_out]}
            out.print(json.dumps(paths))
        else:
            out.print(f"{len(TASKS)} tasks in {folder}: {train} samples each to train on, {held_out} held out")


@app.command()
def check(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="parquet files, folders or patterns")],
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable lines")] = False,
) -> None:
    """Look at every row and image of data files; one line for each bad file or row, exit code 2 if there is any."""
    with exit_codes():
        from services.data.check import check_file
        from shared.samples.files import inspect_files

        files, problems = inspect_files(paths)
        rows, bad = sum(file.rows for file in files), len(problems)
        for problem in problems:
            _tell(problem, as_json=as_json)
        with _progress(quiet=as_json) as progress:
            bar = progress.add_task("checking", total=rows)
            for file in files:
                for problem in check_file(file, advance=lambda count: progress.advance(bar, count)):
                    bad += 1
                    _tell(problem, as_json=as_json)
        if as_json:
            out.print(json.dumps({"files": len(files), "rows": rows, "problems": bad}))
        else:
            console.print(f"{rows} rows in {len(files)} readable files: {f'{bad} problems' if bad else 'all good'}")
        if bad:
            raise typer.Exit(BAD_INPUT)


def _tell(problem: Problem, *, as_json: bool) -> None:
    if as_json:
        out.print(json.dumps({"file": problem.file, "row": problem.row, "reason": problem.reason}))
    else:
        out.print(str(problem))


def _progress(*, quiet: bool) -> Progress:
    """A bar on standard error that vanishes at the end, so that lines on standard output stay whole."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet)
