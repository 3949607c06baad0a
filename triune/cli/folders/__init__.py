"""What is done with run folders: `triune runs …`, and `triune trace`, `replay` and `export` of one."""

import typer

from triune.cli.folders import runs

app = typer.Typer(no_args_is_help=True, help="Run folders: what they hold, and freeing it.")
app.command("list")(runs.list_runs)
app.command()(runs.gc)
