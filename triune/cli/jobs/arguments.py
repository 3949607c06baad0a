"""What several commands on jobs take."""

from typing import Annotated

import typer

Id = Annotated[str, typer.Argument(help="the job's id")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable lines")]
