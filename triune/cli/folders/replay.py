"""`triune replay ID`: a step computed again from what the run folder has, compared with what was announced."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from shared.errors import UserError
from shared.runtime.settings import read_settings
from triune.cli.errors import FAILED, exit_codes
from triune.cli.lines import say_json

out = Console(highlight=False, soft_wrap=True)


def replay(
    job: Annotated[str, typer.Argument(help="the job's id")],
    step: Annotated[int | None, typer.Option(min=1, help="the step to compare; absent: the last one")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="largest relative difference of a number that counts as none")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON line a step")] = False,
) -> None:
    """Compute a step again and compare it: weights by their digest, metrics and advantages number by number.

    It begins behind the last checkpoint before the step, or with the job's model, and makes every step on the way.
    With the torch engine on a CPU equal means equal bits; give a tolerance on a GPU. Exit code 1: it differs.
    """
    with exit_codes():
        folder = read_settings().runs / job
        if not (folder / "job.toml").is_file():
            raise UserError(f"there is no run folder {folder}; set TRIUNE_RUNS to where the runs are")
        is_equal = True
        for line in _replayed(folder, step, tolerance):
            say_json(line) if as_json else out.print(_sentence(line), markup=False)
            is_equal = is_equal and not line["different"]
        if not is_equal:
            raise typer.Exit(FAILED)


def _replayed(folder: Path, wanted: int | None, tolerance: float) -> Iterator[dict[str, Any]]:
    """One line a step, the wanted one last."""
    from services.learner.replay import Replay
    from services.monitor.history.imports import read_run
    from shared.blobs.store import BlobStore
    from triune.replaying import Images, last_step, read_told, threads_of

    run = read_run(folder)
    last = last_step(folder)
    target = wanted if wanted is not None else last
    if not 1 <= target <= last:
        raise UserError(f"{folder} has no step {target}; its last one is {last}")
    begin, checkpoint = start_of(folder, target)
    images = Images(folder, BlobStore(read_settings().blobs), run.spec)
    with Replay(run.spec, run.changes, checkpoint, threads_of(folder)) as again:
        for number in range(begin + 1, target + 1):
            told = read_told(folder, run.spec, number)
            groups = list(zip(told.groups, images.of(told.groups), strict=True))
            made = again.step(number, groups, importance=told.importance, portions=told.portions)
            different: dict[str, Sequence[Any]] = dict(differences("", told.metrics, made.metrics, tolerance))
            for ordinal, advantages in told.advantages.items():
                here = {str(index): value for index, value in enumerate(made.advantages.get(ordinal, []))}
                there = {str(index): _number(value) for index, value in enumerate(advantages)}
                different |= dict(differences(f"advantage {ordinal}/", there, here, tolerance))
            digest = again.digest() if number == target else None
            if digest is not None and told.digest is not None and tolerance == 0 and digest != told.digest:
                different["weights"] = [told.digest, digest]
            yield {
                "step": number,
                "from": checkpoint.name if checkpoint is not None else run.spec.model,
                "groups": len(groups),
                "metrics": len(told.metrics),
                "weights": {"announced": told.digest, "here": digest},
                "different": different,
            }


def start_of(folder: Path, step: int) -> tuple[int, Path | None]:
    """The last checkpoint before a step, with its step; (0, None): there is none, the job's model is the start."""
    found = {int(path.name.removeprefix("step-")): path for path in (folder / "checkpoints").glob("step-*")}
    before = max((number for number in found if number < step), default=0)
    return before, found.get(before)


def differences(
    prefix: str, told: Mapping[str, float], made: Mapping[str, float], tolerance: float
) -> Iterator[tuple[str, Sequence[float | None]]]:
    """What was announced and what is made now, of every number that differs; None: it is on one side alone."""
    for name in sorted(told.keys() | {key for key, value in made.items() if math.isfinite(value)}):
        one, other = told.get(name), made.get(name)
        if one is None or other is None or not _same(one, other, tolerance):
            yield f"{prefix}{name}", [one, other]


def _same(one: float, other: float, tolerance: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return one == other or abs(one - other) <= tolerance * max(abs(one), abs(other))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _sentence(line: dict[str, Any]) -> str:
    different: dict[str, Sequence[Any]] = line["different"]
    begin = f"step {line['step']} ({line['groups']} groups, from {line['from']})"
    if different:
        parts = [f"{name}: announced {one}, here {other}" for name, (one, other) in list(different.items())[:10]]
        more = f"; and {len(different) - 10} more" if len(different) > 10 else ""
        return f"{begin}: {len(different)} numbers differ; {'; '.join(parts)}{more}"
    weights = line["weights"]
    same = "weights equal bit for bit, " if weights["here"] and weights["here"] == weights["announced"] else ""
    unheard = ", weights not compared: their digest was not announced" if weights["announced"] is None else ""
    return f"{begin}: {same}{line['metrics']} metrics and all advantages equal{unheard}"
