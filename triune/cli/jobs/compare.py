"""`triune job diff` and `triune job clone`: two job files compared, and one made from another."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shared.errors import UserError
from shared.jobs.document import parse_job, parse_toml, without_none, write_toml
from shared.jobs.flat import Flat, differences, flat
from shared.runtime.settings import read_settings
from triune.cli.client import Api
from triune.cli.errors import exit_codes
from triune.cli.lines import say_json

out = Console(highlight=False)


def diff(
    first: Annotated[str, typer.Argument(help="a job's id")],
    second: Annotated[str, typer.Argument(help="another job's id")],
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Show the settings in which two jobs differ, changes made while they ran included."""
    with exit_codes():
        api = Api(read_settings())
        rows = differences(settings_of(api, first), settings_of(api, second))
        if as_json:
            say_json({key: {first: one, second: other} for key, one, other in rows})
        elif not rows:
            out.print(f"{first} and {second} have the same settings")
        else:
            table = Table("key", first, second, box=None)
            for key, one, other in rows:
                table.add_row(key, _shown(one), _shown(other))
            out.print(table)


def settings_of(api: Api, job: str) -> Flat:
    """A job's keys, each change that was made while it ran as `key (changed)`."""
    details = api.get(f"/v1/jobs/{job}")
    changes = {f"{change['key']} (changed)": change["value"] for change in details["changes"]}
    return flat(details["spec"]) | changes


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)


def clone(
    job: Annotated[str, typer.Argument(help="the id of the job to take the settings from")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value …, values as in TOML")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="write the job file there")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="submit it at once")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable: the keys, or the submitted job")] = False,
) -> None:
    """Write a job's file again with some keys changed: to standard output, to a file, or into the queue."""
    with exit_codes():
        api = Api(read_settings())
        document = api.get(f"/v1/jobs/{job}")["spec"]
        for setting in settings or ():
            _set(document, setting)
        text = write_toml(parse_job(without_none(document)))
        if submit:
            created = api.submit(text)
            say_json(created) if as_json else out.print(f"{created['job_id']} is {created['state']}", soft_wrap=True)
        elif output is not None:
            if output.exists():
                raise UserError(f"{output} exists; name another file")
            output.write_text(text)
        else:
            say_json(parse_toml(text)) if as_json else sys.stdout.write(text)


def _set(document: dict[str, Any], setting: str) -> None:
    key, found, value = setting.partition("=")
    if not found or not key:
        raise UserError(f"{setting!r} is not a setting; expected key=value, such as algorithm.max_staleness=2")
    try:
        parsed = parse_toml(f"value = {value}")["value"]
    except UserError:
        parsed = value  # text without quotes
    *tables, name = key.split(".")
    for table in tables:
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            raise UserError(f"{key!r}: {table!r} is no table of the job file")
    document[name] = parsed
