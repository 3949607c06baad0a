"""`triune data make`: draw the demo's data set."""

import json
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import TriuneError
from triune.cli.data.printing import out, progress
from triune.cli.errors import exit_codes


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

        with progress(quiet=as_json) as bars:
            bar = bars.add_task("drawing", total=len(TASKS) * (train + held_out))
            try:
                files = draw(
                    folder,
                    seed=seed,
                    train_per_task=train,
                    held_out_per_task=held_out,
                    progress=lambda rows: bars.advance(bar, rows),
                )
            except OSError as error:
                raise TriuneError(f"the data set cannot be written to {folder}: {error.strerror or error}") from error
        if as_json:
            paths = {"train": [str(path) for path in files.train], "held_out": [str(path) for path in files.held_out]}
            out.print(json.dumps(paths))
        else:
            out.print(f"{len(TASKS)} tasks in {folder}: {train} samples each to train on, {held_out} held out")
