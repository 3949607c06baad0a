"""`triune job submit`: a job file into the queue."""

from itertools import dropwhile, islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from shared.jobs.document import read_job, write_toml
from shared.jobs.spec import JobSpec
from triune.cli.client import Api
from triune.cli.errors import console, exit_codes
from triune.cli.jobs.arguments import Json
from triune.cli.jobs.watch import follow
from triune.cli.lines import say_json
from triune.cli.starting import settings_once_up

LIVE = ("queued", "running", "paused", "stopping")

out = Console(highlight=False)


def submit(
    file: Annotated[Path, typer.Argument(help="job file (TOML)")],
    watch: Annotated[bool, typer.Option("--watch", help="follow it until it ends")] = False,
    as_json: Json = False,
) -> None:
    """Submit a job; relative paths in it are taken from the job file's folder if they exist there.

    While `triune up` is still starting on this machine, it waits for it.

    With --watch the exit code is 0 when the job is done, and 1 when it failed or was stopped.
    """
    with exit_codes():
        spec = read_job(file)
        api = Api(settings_once_up())
        text = write_toml(resolve_paths(spec, file.resolve().parent))
        for warning in api.validate(text)["warnings"]:
            console.print(f"note: {warning}", markup=False)
        created = api.submit(text)
        say_json(created) if as_json else out.print(_place(api, created), soft_wrap=True)
        if watch:
            follow(api, created["job_id"], as_json)


def _place(api: Api, created: dict[str, Any]) -> str:
    """What a submitted job is, and whom it waits for."""
    older = dropwhile(lambda job: job["job_id"] != created["job_id"], api.jobs())
    ahead = [job["job_id"] for job in islice(older, 1, None) if job["state"] in LIVE][::-1]
    if not ahead:
        return f"{created['job_id']} is {created['state']}"
    others = f" and {len(ahead) - 1} more" if len(ahead) > 1 else ""
    return f"{created['job_id']} is {created['state']}, behind {ahead[0]}{others}"


def resolve_paths(spec: JobSpec, folder: Path) -> JobSpec:
    """`spec` with absolute paths: relative ones are taken from `folder` or else from here, where they exist."""

    def absolute(path: str) -> str:
        if Path(path).is_absolute() or "://" in path:
            return path
        return next((str(root / path) for root in (folder, Path.cwd()) if any(root.glob(path))), path)

    data = msgspec.structs.replace(
        spec.data,
        train=[absolute(path) for path in spec.data.train],
        held_out=[absolute(path) for path in spec.data.held_out],
    )
    return msgspec.structs.replace(spec, data=data, model=absolute(spec.model))
