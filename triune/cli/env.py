"""`triune env import`: a job file from V-Triune's variables."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import UserError
from triune.cli.errors import console, exit_codes
from triune.v_triune import BY_NAME, read_script, translate, write_job

app = typer.Typer(no_args_is_help=True, help="From the environment variables of V-Triune.")


@app.callback()
def group() -> None:
    """A group, so that `import` is a word of its own."""


@app.command("import")
def import_(
    file: Annotated[
        Path | None, typer.Argument(help="shell script or .env file that sets them; absent: this environment")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="job file to write; absent: standard output")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the job file's keys and the notes, as JSON")] = False,
) -> None:
    """Write the job file that V-Triune's exported variables describe; the script is read, not run."""
    with exit_codes():
        values = read_script(file) if file else {name: os.environ[name] for name in BY_NAME if name in os.environ}
        if not values.keys() & BY_NAME.keys():
            place = str(file) if file else "the environment"
            raise UserError(f"{place} sets none of V-Triune's variables, such as ACTOR_LOAD_PATH or DATA_TRAIN_FILE")
        imported = translate(values)
        text = write_job(imported)
        if as_json:
            sys.stdout.write(f"{json.dumps({'job': imported.document, 'notes': imported.notes})}\n")
            return
        for note in imported.notes:
            console.print(note, markup=False)
        if output is None:
            sys.stdout.write(text)
            return
        if output.exists():
            raise UserError(f"{output} exists; name another file")
        output.write_text(text)
        console.print(f"written to {output}", markup=False)
