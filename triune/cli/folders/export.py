"""`triune export`: a checkpoint as a Hugging Face folder with a model card."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from shared.errors import UserError
from shared.runtime.settings import read_settings
from triune.cli.errors import exit_codes
from triune.cli.lines import say_json

out = Console(highlight=False, soft_wrap=True)


def export(
    job: Annotated[str, typer.Argument(help="the job's id")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="folder to write; it must not exist")],
    step: Annotated[int | None, typer.Option(help="the checkpoint of this step; absent: the last one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable line")] = False,
) -> None:
    """Copy a checkpoint's model out of a run, with a card that tells how it was trained and what it reached."""
    with exit_codes():
        run = read_settings().runs / job
        if not run.is_dir():
            raise UserError(f"there is no run folder {run}; TRIUNE_RUNS says where runs are")
        if folder.exists():
            raise UserError(f"{folder} exists; name another folder")
        checkpoint = _checkpoint(run, step)
        shutil.copytree(checkpoint / "model", folder)
        (folder / "README.md").write_text(model_card(job, _step_of(checkpoint), _read(run / "report.json"), run))
        told = {"job_id": job, "step": _step_of(checkpoint), "folder": str(folder)}
        say_json(told) if as_json else out.print(f"step {_step_of(checkpoint)} of {job} is in {folder}")


def _checkpoint(run: Path, step: int | None) -> Path:
    found = {_step_of(path): path for path in sorted((run / "checkpoints").glob("step-*")) if (path / "model").is_dir()}
    if not found:
        raise UserError(f"{run} has no checkpoint")
    if step is None:
        return found[max(found)]
    if step not in found:
        raise UserError(f"{run} has no checkpoint of step {step}; it has {', '.join(map(str, found))}")
    return found[step]


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}


def model_card(job: str, step: int, report: dict[str, Any], run: Path) -> str:
    """The card, in the form that model hubs read; figures are the report's own, held-out and greedy."""
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "tags: [triune, grpo, reinforcement-learning]",
        "---",
        f"# {job}, step {step}",
        "",
        f"Trained by reinforcement learning with Triune; the state of the run was *{report.get('state', 'unknown')}* "
        f"after {report.get('steps', step)} steps.",
        "",
    ]
    sources = report.get("sources", {})
    if sources:
        lines += ["| source | n | before | after |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {one.get('n', 0)} | {_number(one.get('before'))} | {_number(one.get('after'))} |"
            for name, one in sources.items()
        ]
        lines += ["", "Mean reward over held-out samples, greedy; *after* is the run's last evaluation.", ""]
    job_file = run / "job.toml"
    if job_file.exists():
        lines += ["## Job file", "", "```toml", job_file.read_text().rstrip(), "```", ""]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
