"""`triune job watch`: a job on the terminal, its step, a table by source, staleness and queue depths, until it ends."""

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from shared.errors import TriuneError, Unavailable
from shared.runtime.settings import read_settings
from triune.cli.client import Api
from triune.cli.errors import FAILED, INTERRUPTED, console, exit_codes
from triune.cli.jobs.arguments import Id, Json
from triune.cli.lines import say_json

POLL_S = 1.0
PATIENCE_S = 60.0
PLAIN_S = 5.0
ENDED = ("done", "stopped", "failed")

out = Console(highlight=False)


class JobFailed(TriuneError):
    """The job ended as failed; the text is its own sentence."""


def watch(job: Id, as_json: Json = False) -> None:
    """Follow a job until it ends. Exit code 0: it is done; 1: it failed or was stopped."""
    with exit_codes():
        follow(Api(read_settings()), job, as_json)


def follow(api: Api, job: str, as_json: bool) -> None:
    """Watch until the job ends; the command fails unless it is done. Ctrl-C ends the watching alone."""
    try:
        state = watch_job(api, job, as_json=as_json)
    except KeyboardInterrupt:
        console.print(f"no longer watched; {job} goes on (`triune job stop {job}` ends it)", markup=False)
        raise typer.Exit(INTERRUPTED) from None
    if state != "done":
        raise typer.Exit(FAILED)


def watch_job(
    api: Api, job: str, *, as_json: bool = False, title: str = "", look: Callable[[], None] = lambda: None
) -> str:
    """Follow `job` until it has ended and its run folder is written; returns its last state.

    On a terminal a table is kept up to date; elsewhere a line is printed now and then (`as_json`: a JSON line
    when something has changed).
    `look` is called once a poll and may raise. An API that is away is waited for (60 s), since the monitor may be
    starting again. Raises JobFailed, and Unavailable when an ended job is not on file within 60 s.
    """
    show = _json_lines() if as_json else _screen(title or job) if out.is_terminal else _plain_lines()
    with contextlib.closing(show):
        next(show)
        ended_at: float | None = None
        while True:
            look()
            details, services = _ask(api, job)
            show.send((details, services))
            if details["state"] in ENDED:
                ended_at = ended_at or time.monotonic()
                if details["on_file"] or details["reading_error"]:
                    break
                if time.monotonic() > ended_at + PATIENCE_S:
                    raise Unavailable(f"the monitor has not written the run folder of {job} within {PATIENCE_S:g} s")
            time.sleep(POLL_S)
    if details["state"] == "failed":
        raise JobFailed(f"job {job} failed: {details['error'] or 'no reason was given'}")
    return str(details["state"])


Shown = tuple[dict[str, Any], dict[str, Any]]


def _json_lines() -> Generator[None, Shown, None]:
    last: dict[str, Any] = {}
    while True:
        details, _ = yield
        report = details["report"]
        line = {name: details[name] for name in ("job_id", "state", "step", "total_steps", "on_file")}
        line |= {name: report[name] for name in ("groups", "staleness", "sources")}
        line |= {"mean_reward": _mean(report)}
        if line != last:
            say_json(line)
            last = line


def _mean(report: dict[str, Any]) -> float | None:
    """Of the newest training rewards of all sources; None before the first."""
    latest = [value for value in report.get("latest", {}).values() if value is not None]
    return sum(latest) / len(latest) if latest else None


def _plain_lines() -> Generator[None, Shown, None]:
    last = ""
    printed_at = 0.0
    while True:
        details, _ = yield
        reward = _mean(details["report"])
        mean = "" if reward is None else f", mean reward {reward:.3f}"
        line = f"{details['state']}: step {details['step']} of {details['total_steps']}{mean}"
        if line != last and (time.monotonic() > printed_at + PLAIN_S or details["state"] in ENDED):
            out.print(line)
            last, printed_at = line, time.monotonic()


def _screen(title: str) -> Generator[None, Shown, None]:
    progress = Progress(
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=out
    )
    bar = progress.add_task(title, total=None)
    with Live(console=out, refresh_per_second=4) as live:
        while True:
            details, services = yield
            progress.update(bar, completed=details["step"], total=details["total_steps"])
            live.update(_page(progress, details, services))


def _ask(api: Api, job: str) -> tuple[dict[str, Any], dict[str, Any]]:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return api.get(f"/v1/jobs/{job}"), api.get("/v1/services")
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_S)


def _page(progress: Progress, details: dict[str, Any], services: dict[str, Any]) -> RenderableType:
    report = details["report"]
    table = Table("source", "reward now", "before", "trained", "void", box=None, header_style="dim")
    latest = report.get("latest", {})
    for name, source in report["sources"].items():
        groups = source["groups"]
        table.add_row(
            name, _number(latest.get(name)), _number(source["before"]), str(groups["trained"]), str(groups["void"])
        )
    staleness = report["staleness"]
    pace = report.get("pace_s")
    speed = (
        f"{pace:.1f} s a step, about {_span(pace * (details['total_steps'] - details['step']))} left; " if pace else ""
    )
    queues = ", ".join(f"{q['stream']} {q['kind']} {q['waiting']}+{q['in_hand']}" for q in services["queues"])
    facts = (
        f"{details['state']}; {speed}staleness mean {staleness['mean']:.2f}, max {staleness['max']}, "
        f"bound {staleness['bound']}; queues (waiting+in hand): {queues or 'empty'}"
    )
    return Group(progress, table, facts)


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def result_table(report: dict[str, Any]) -> Table:
    """Held-out greedy reward by source, before and after, from a report."""
    table = Table("source", "n", "before", "after", "change", title="held-out greedy reward", box=None)
    rows = [(name, s["n"], s["before"], s["after"]) for name, s in report["sources"].items()]
    known = [(before, after) for _, _, before, after in rows if before is not None and after is not None]
    for name, n, before, after in rows:
        table.add_row(name, str(n), _number(before), _number(after), _change(before, after))
    if known:
        before, after = (sum(column) / len(known) for column in zip(*known, strict=True))
        table.add_section()
        table.add_row("mean", "", _number(before), _number(after), _change(before, after), style="bold")
    return table


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "–"
    change = after - before
    return f"[{'green' if change > 0 else 'red' if change < 0 else 'dim'}]{change:+.3f}[/]"
