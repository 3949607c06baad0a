"""`triune job …`: submit, watch and steer jobs over REST."""

import contextlib
import math
import shutil
from itertools import dropwhile, islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from shared.errors import UserError
from shared.jobs.spec import JobSpec, read_job, write_toml
from shared.runtime.settings import read_settings
from triune.cli.client import Api
from triune.cli.errors import FAILED, INTERRUPTED, console, exit_codes
from triune.cli.lines import say_json
from triune.cli.watch import watch_job

app = typer.Typer(no_args_is_help=True, help="Submit, watch and steer jobs.")
out = Console(highlight=False)

DELETE_S = 600.0
"""How long `delete` waits for a job that lives to stop."""
LIVE = ("queued", "running", "paused", "stopping")
Id = Annotated[str, typer.Argument(help="the job's id")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable lines")]


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="job file (TOML)")],
    watch: Annotated[bool, typer.Option("--watch", help="follow it until it ends")] = False,
    as_json: Json = False,
) -> None:
    """Submit a job; relative paths in it are taken from the job file's folder if they exist there.

    With --watch the exit code is 0 when the job is done, and 1 when it failed or was stopped.
    """
    with exit_codes():
        spec = read_job(file)
        api = Api(read_settings())
        text = write_toml(resolve_paths(spec, file.resolve().parent))
        for warning in api.validate(text)["warnings"]:
            console.print(f"note: {warning}", markup=False)
        created = api.submit(text)
        say_json(created) if as_json else out.print(_place(api, created), soft_wrap=True)
        if watch:
            _follow(api, created["job_id"], as_json)


def _place(api: Api, created: dict[str, Any]) -> str:
    """What a submitted job is, and whom it waits for."""
    older = dropwhile(lambda job: job["job_id"] != created["job_id"], api.jobs())
    ahead = [job["job_id"] for job in islice(older, 1, None) if job["state"] in LIVE][::-1]
    if not ahead:
        return f"{created['job_id']} is {created['state']}"
    others = f" and {len(ahead) - 1} more" if len(ahead) > 1 else ""
    return f"{created['job_id']} is {created['state']}, behind {ahead[0]}{others}"


@app.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="only jobs in this state, such as running")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many of the newest")] = None,
    as_json: Json = False,
) -> None:
    """All jobs, oldest first."""
    with exit_codes():
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
        table = Table("job", "state", "step", box=None)
        for job in jobs:
            table.add_row(job["job_id"], job["state"], f"{job.get('step', 0)}/{job.get('total_steps', '?')}")
        out.print(table)


@app.command()
def show(job: Id, as_json: Json = False) -> None:
    """All that is known of a job, as JSON; with --json on one line."""
    with exit_codes():
        found = Api(read_settings()).get(f"/v1/jobs/{job}")
        say_json(found) if as_json else out.print_json(data=found)


@app.command()
def watch(job: Id, as_json: Json = False) -> None:
    """Follow a job until it ends. Exit code 0: it is done; 1: it failed or was stopped."""
    with exit_codes():
        _follow(Api(read_settings()), job, as_json)


def _follow(api: Api, job: str, as_json: bool) -> None:
    """Watch until the job ends; the command fails unless it is done. Ctrl-C ends the watching alone."""
    try:
        state = watch_job(api, job, as_json=as_json)
    except KeyboardInterrupt:
        console.print(f"no longer watched; {job} goes on (`triune job stop {job}` ends it)", markup=False)
        raise typer.Exit(INTERRUPTED) from None
    if state != "done":
        raise typer.Exit(FAILED)


def _command(name: str, text: str, answer: str = "{job} is {state}") -> None:
    def command(job: Id, as_json: Json = False) -> None:
        with exit_codes():
            shown = Api(read_settings()).post(f"/v1/jobs/{job}/{name}")
            say_json(shown) if as_json else out.print(answer.format(job=job, state=shown["state"]), soft_wrap=True)

    app.command(name, help=text)(command)


_command("pause", "Finish what was admitted, admit nothing more.")
_command("stop", "End a job; what is open becomes void.")
_command(
    "checkpoint",
    "Write a checkpoint at the next step boundary.",
    "{job} is {state}; a checkpoint is written at the next step boundary",
)


@app.command()
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


@app.command()
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


@app.command("import")
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


@app.command("set")
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
