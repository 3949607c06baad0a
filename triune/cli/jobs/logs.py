"""`triune job logs`: what the services of `triune up` said about a job."""

import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from shared.errors import UserError
from shared.runtime.settings import local_folder, read_settings
from triune.cli.client import Api
from triune.cli.errors import exit_codes
from triune.cli.lines import say_json

POLL_S = 0.5
_SHOWN = ("timestamp", "level", "event", "service", "replica")

out = Console(highlight=False, soft_wrap=True)


def logs(
    job: Annotated[str, typer.Argument(help="the job's id")],
    service: Annotated[str | None, typer.Option(help="of this service alone")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as lines come, until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the lines as they are")] = False,
) -> None:
    """Lines of the services' logs that name the job, or that were written while it ran; the oldest first."""
    with exit_codes():
        settings = read_settings()
        details = Api(settings).get(f"/v1/jobs/{job}")
        folder = local_folder(settings.runs) / "logs"
        files = sorted(folder.glob(f"{service or '*'}-*.log"))
        if not files:
            raise UserError(
                f"there is no log of {service or 'a service'} in {folder}; containers' are shown by `make logs`"
            )
        span = (details["started_at"] or details["created_at"], details["ended_at"])
        with_files = [path.open(errors="replace") for path in files]
        try:
            _show(with_files, job, span, follow=follow, as_json=as_json)
        finally:
            for file in with_files:
                file.close()


def _show(files: Sequence[TextIO], job: str, span: tuple[float, float | None], *, follow: bool, as_json: bool) -> None:
    while True:
        lines = [line for file in files for line in _lines(file)]
        for line in sorted((one for one in lines if concerns(one, job, span)), key=lambda one: str(one["timestamp"])):
            say_json(line) if as_json else out.print(_sentence(line), markup=False)
        if not follow:
            return
        time.sleep(POLL_S)


def _lines(file: TextIO) -> Iterator[dict[str, Any]]:
    """Whole lines that were not read yet; what is no JSON (a traceback) is left out."""
    while True:
        start = file.tell()
        text = file.readline()
        if not text.endswith("\n"):
            file.seek(start)
            return
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "timestamp" in line:
            yield line


def concerns(line: dict[str, Any], job: str, span: tuple[float, float | None]) -> bool:
    """Whether it names the job, or names none and was written from its start to its end (seconds since the epoch)."""
    if line.get("job") is not None:
        return bool(line["job"] == job)
    moment = datetime.fromisoformat(str(line["timestamp"]).replace("Z", "+00:00")).timestamp()
    return span[0] <= moment and (span[1] is None or moment <= span[1])


def _sentence(line: dict[str, Any]) -> str:
    facts = " ".join(f"{key}={value}" for key, value in line.items() if key not in _SHOWN)
    place = line.get("replica") or line.get("service", "")
    return f"{line['timestamp']} {line.get('level', ''):7} {place} {line.get('event', '')} {facts}".rstrip()
