"""`triune data check`: rows looked at on all cores, a line a problem, and what each source holds."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.errors import UserError
from triune.cli.data.printing import Lines, out, progress
from triune.cli.errors import BAD_INPUT, console, exit_codes

if TYPE_CHECKING:
    from services.data.checking.duplicates import Seen
    from services.data.checking.run import Checked
    from shared.jobs.spec import JobSpec
    from shared.samples.files import DataFile, Problem
    from triune.cli.data.truths import Truths

_SHOWN = 10
"""Sets of duplicates that are printed in full."""


def check(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="files, folders, patterns or URIs (s3://, hf://)")
    ] = None,
    job: Annotated[
        Path | None, typer.Option(help="a job file, whose data are checked as well, and prompts counted by its model")
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens/--no-tokens", help="with --job: count prompt tokens, too long ones are bad rows")
    ] = True,
    fast: Annotated[
        bool, typer.Option("--fast", help="read headers of images alone, decode none, and judge no truth")
    ] = False,
    sample: Annotated[int | None, typer.Option(min=1, help="look at so many rows, drawn from all")] = None,
    seed: Annotated[int, typer.Option(min=0, help="another seed draws other rows for --sample")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; one a core if not given")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable lines")] = False,
) -> None:
    """Look at every row and image of data files; one line for each bad file or row, exit code 2 if there is any.

    A ground truth must be right by its own verifier. Ends with what each source holds (sizes, lengths, boxes), and with
    images that are there twice, which are no fault.
    """
    with exit_codes():
        from functools import partial

        from services.data.checking.rows import Depth
        from services.data.checking.run import Checked, check_files, plan
        from shared.jobs.document import read_job
        from shared.samples.files import inspect_files
        from triune.cli.data.tokens import for_workers

        spec = read_job(job) if job is not None else None
        files, problems = inspect_files(_patterns(paths or [], spec))
        make_weigh = for_workers(spec) if spec is not None and tokens else None
        for problem in problems:
            _tell(problem, as_json=as_json)
        lines = Lines(partial(_tell, as_json=False))
        tasks, checked, bad = plan(files, sample=sample, seed=seed), Checked(), len(problems)
        with progress(quiet=as_json) as bars, _truths(spec, fast=fast) as truths:
            total = sum(file.rows for file in files)
            bar = bars.add_task("checking", total=min(sample or total, total))
            depth = Depth(decode=not fast, verifiers=_verifiers(spec))
            for task, report in check_files(files, tasks, depth, workers=workers, make_weigh=make_weigh):
                checked.add(task.file, report)
                found = report.problems
                if truths is not None:
                    found = [*found, *truths.problems(str(files[task.file].place), report.truths)]
                bad += len(found)
                bars.advance(bar, report.looked_at)
                found = sorted(found, key=lambda one: -1 if one.row is None else one.row)
                if as_json:
                    for problem in found:
                        _tell(problem, as_json=True)
                else:
                    lines.add(task.file, report.looked_at, found)
            lines.end()
        summary = _summary(files, checked, bad)
        out.print(json.dumps(summary)) if as_json else _print(summary)
        if bad:
            raise typer.Exit(BAD_INPUT)


def _truths(spec: "JobSpec | None", *, fast: bool) -> "AbstractContextManager[Truths | None]":
    """Where truths are judged by their verifiers; None with --fast."""
    if fast:
        return nullcontext()
    import msgspec

    from triune.cli.data.truths import Truths

    return Truths(msgspec.to_builtins(spec.reward) if spec is not None else {})


def _patterns(paths: list[str], spec: "JobSpec | None") -> list[str]:
    if spec is not None:
        paths = [*paths, *spec.data.train, *spec.data.held_out]
    if not paths:
        raise UserError("nothing to check; expected files, folders or patterns, or --job FILE")
    return paths


def _verifiers(spec: "JobSpec | None") -> frozenset[str] | None:
    """The verifiers that rows of the job may ask for, with a note of what is none; raises BadData for a bad plugin."""
    if spec is None:
        return None
    from shared.runtime.settings import read_settings
    from shared.samples.plugins import left_out, verifiers_for

    roots = read_settings().reward_plugins
    known = frozenset(verifiers_for(spec.reward.plugins, roots))
    for sentence in left_out(spec.reward.plugins, roots):
        console.print(f"note: {sentence}", markup=False)
    return known


def _tell(problem: "Problem", *, as_json: bool) -> None:
    if as_json:
        out.print(json.dumps({"file": problem.file, "row": problem.row, "reason": problem.reason}))
    else:
        out.print(str(problem))


def _summary(files: Sequence["DataFile"], checked: "Checked", problems: int) -> dict[str, Any]:
    duplicates = checked.duplicates()
    return {
        "files": len(files),
        "rows": sum(file.rows for file in files),
        "rows_checked": checked.rows,
        "problems": problems,
        "sources": {name: tally.summary() for name, tally in checked.tallies.items()},
        "duplicates": {
            "exact": [_places(files, members) for members in duplicates.exact],
            "near": [_places(files, members) for members in duplicates.near],
        },
    }


def _places(files: Sequence["DataFile"], members: Sequence["Seen"]) -> list[dict[str, Any]]:
    return [{"file": str(files[seen.file].place), "row": seen.row} for seen in members]


def _print(summary: dict[str, Any]) -> None:
    """The sum on standard error, since lines on standard output are problems."""
    problems, rows = summary["problems"], summary["rows_checked"]
    for name, facts in summary["sources"].items():
        numbers = "".join(
            f"\n    {label.replace('_', ' ')}: {span['min']:g} to {span['max']:g}, mean {span['mean']:g}"
            for label, span in facts.items()
            if isinstance(span, dict) and "mean" in span
        )
        bad = f", {facts['bad']} bad" if facts["bad"] else ""
        verifiers = ", ".join(f"{verifier} {count}" for verifier, count in facts["verifiers"].items())
        console.print(f"{name}: {facts['rows']} rows{bad} ({verifiers or 'no verifier'}){numbers}", markup=False)
    for kind, words in (("exact", "images with the same bytes"), ("near", "different images that look alike")):
        sets = summary["duplicates"][kind]
        if sets:
            across = sum(len({place["file"] for place in members}) > 1 for members in sets)
            console.print(f"{len(sets)} sets of {words}, {across} over several files", markup=False)
        for members in sets[:_SHOWN]:
            console.print("    " + ", ".join(f"{place['file']}#{place['row']}" for place in members[:4]), markup=False)
    end = f"{problems} problem{'s' if problems != 1 else ''}" if problems else "all good"
    console.print(f"{rows} rows in {summary['files']} readable files: {end}")
