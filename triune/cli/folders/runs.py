"""`triune runs list` and `triune runs gc`: what run folders hold, and freeing what nobody needs any more."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shared.runtime.settings import read_settings
from triune.cli.client import Api
from triune.cli.errors import exit_codes
from triune.cli.lines import say_json

ENDED = ("done", "stopped", "failed")

out = Console(highlight=False)


@dataclass(frozen=True)
class RunFolder:
    """One folder under TRIUNE_RUNS; `state` is None for a job that the API does not know (it was deleted)."""

    path: Path
    state: str | None
    size: int
    checkpoints: list[Path]


def run_folders(runs: Path, states: dict[str, str]) -> Iterator[RunFolder]:
    """Every run folder, by name; the servers' own data under `.local` are none."""
    for path in sorted(runs.iterdir()) if runs.is_dir() else ():
        if path.is_dir() and not path.name.startswith(".") and (path / "job.toml").exists():
            checkpoints = sorted((path / "checkpoints").glob("step-*"))
            yield RunFolder(path, states.get(path.name), size_of(path), checkpoints)


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def list_runs(as_json: Annotated[bool, typer.Option("--json", help="one JSON line a run")] = False) -> None:
    """Run folders with their sizes and checkpoints."""
    with exit_codes():
        settings = read_settings()
        folders = list(run_folders(settings.runs, _states(Api(settings))))
        if as_json:
            for one in folders:
                line = {
                    "job_id": one.path.name,
                    "state": one.state,
                    "bytes": one.size,
                    "checkpoints": len(one.checkpoints),
                }
                say_json(line)
            return
        if not folders:
            out.print(f"no run folders in {settings.runs}")
            return
        table = Table("run", "state", "size", "checkpoints", box=None)
        for one in folders:
            table.add_row(one.path.name, one.state or "deleted", f"{one.size / 1e6:.1f} MB", str(len(one.checkpoints)))
        out.print(table)


def gc(
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="also remove all but the last checkpoint of jobs that have ended")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON line a folder")] = False,
) -> None:
    """Remove the folders of deleted jobs; with --checkpoints also older checkpoints of ended ones."""
    with exit_codes():
        settings = read_settings()
        freed = 0
        for path in _superfluous(list(run_folders(settings.runs, _states(Api(settings)))), checkpoints=checkpoints):
            size = size_of(path)
            freed += size
            verb = "would remove" if dry_run else "removed"
            told = {"folder": str(path), "bytes": size, "removed": not dry_run}
            say_json(told) if as_json else out.print(f"{verb} {path} ({size / 1e6:.1f} MB)", soft_wrap=True)
            if not dry_run:
                shutil.rmtree(path)
        if not as_json:
            out.print(f"{freed / 1e6:.1f} MB {'would be ' if dry_run else ''}freed")


def _superfluous(folders: list[RunFolder], *, checkpoints: bool) -> Iterator[Path]:
    for one in folders:
        if one.state is None:
            yield one.path
        elif checkpoints and one.state in ENDED:
            yield from one.checkpoints[:-1]


def _states(api: Api) -> dict[str, str]:
    return {job["job_id"]: job["state"] for job in api.jobs()}
