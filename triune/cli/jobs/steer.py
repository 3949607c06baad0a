"""`triune job pause`, `resume`, `stop` and the like: what is asked of a job over REST."""

import contextlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from shared.errors import UserError
from shared.runtime.settings import read_settings
from triune.cli.client import Api
from triune.cli.errors import exit_codes
from triune.cli.jobs.arguments import Id, Json
from triune.cli.lines import say_json

DELETE_S = 600.0
"""How long `delete` waits for a job that lives to stop."""
Command = Callable[..., None]

out = Console(highlight=False)


def _command(name: str, text: str, answer: str = "{job} is {state}") -> Command:
    def command(job: Id, as_json: Json = False) -> None:
        with exit_codes():
            shown = Api(read_settings()).post(f"/v1/jobs/{job}/{name}")
            say_json(shown) if as_json else out.print(answer.format(job=job, state=shown["state"]), soft_wrap=True)

    command.__doc__ = text
    return command


pause = _command("pause", "Finish what was admitted, admit nothing more.")
stop = _command("stop", "End a job; what is open becomes void.")
checkpoint = _command(
    "checkpoint",
    "Write a checkpoint at the next step boundary.",
    "{job} is {state}; a checkpoint is written at the next step boundary",
)


def resume(
    job: Id,
    accept_changed_data: Annotated[
        bool,
        typer.Option("--accept-changed-data", help="go on although its data files are others now"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Go on with a paused job, or a failed one from its last checkpoint."""
    with exit_codes():
        query = {"accept_changed_data": True} if accept_changed_data else {}
        shown = Api(read_settings()).post(f"/v1/jobs/{job}/resume", **query)
        say_json(shown) if as_json else out.print(f"{job} is {shown['state']}", soft_wrap=True)


def delete(
    job: Id,
    files: Annotated[bool, typer.Option("--files", help="remove its run folder, checkpoints included")] = False,
    as_json: Json = False,
) -> None:
    """Abandon a job: stop it, and free what the bus and the blob store hold of it."""
    with exit_codes():
        api = Api(read_settings())
        api.delete(f"/v1/jobs/{job}", files=files)
        with out.status(f"{job} is being stopped and removed") if not as_json else contextlib.nullcontext():
            api.until_unknown(f"/v1/jobs/{job}", DELETE_S)
        say_json({"job_id": job, "deleted": True}) if as_json else out.print(f"{job} is deleted")


def import_run(
    folder: Annotated[Path, typer.Argument(help="a run folder, which is copied to the others if it lies elsewhere")],
    as_json: Json = False,
) -> None:
    """Take up a job from its run folder, say after NATS has lost its data: it goes on from its last checkpoint."""
    with exit_codes():
        settings = read_settings()
        source, target = folder.resolve(), settings.runs / folder.resolve().name
        if not (source / "job.toml").is_file():
            raise UserError(f"{folder} is no run folder: it has no job.toml")
        if source != target:
            if target.exists():
                raise UserError(f"{target} is there already, expected no run folder of that name")
            shutil.copytree(source, target)
        answer = Api(settings).post(f"/v1/jobs/{target.name}/import")
        say_json(answer) if as_json else out.print(f"{target.name} is {answer['state']}")


def change(job: Id, settings: Annotated[list[str], typer.Argument(help="key=value …")], as_json: Json = False) -> None:
    """Change max_staleness, total_steps or sources.<name>.weight while the job runs."""
    with exit_codes():
        changes: dict[str, Any] = dict(_pair(text) for text in settings)
        answer = Api(read_settings()).patch(f"/v1/jobs/{job}", changes)
        if as_json:
            say_json(answer)
            return
        for made in answer["changes"][-len(changes) :]:
            out.print(f"{job}: {made['key']} is {made['value']} from the next {made['since_unit']} on")


def _pair(text: str) -> tuple[str, int | float]:
    """The key and the number as it was written: a whole one is never rounded."""
    key, found, value = text.partition("=")
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            number = kind(value)
            if found and key and math.isfinite(number):
                return key, number
    raise UserError(f"{text!r} is not a change; expected key=number, such as max_staleness=2")
