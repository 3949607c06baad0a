"""`triune data …`: draw a data set, check data files, convert other ones, keep what a model can learn from."""

import typer

from triune.cli.data.check import check
from triune.cli.data.convert import convert
from triune.cli.data.curate import curate
from triune.cli.data.make import make

app = typer.Typer(no_args_is_help=True, help="Draw a data set; check, convert and curate data files.")
for command in (make, check, convert, curate):
    app.command()(command)
