"""`triune data curate`: rules, then how often a model already succeeds, through the services that run."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from shared.errors import BadData, UserError
from triune.cli.data.printing import out
from triune.cli.errors import console, exit_codes

if TYPE_CHECKING:
    from services.data.curating.passes import Share


def curate(
    folder: Annotated[Path, typer.Option("--out", help="folder for shards, pass counts, curated rows and report.html")],
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="DATA...", help="files, folders, patterns or URIs; absent: the job's")
    ] = None,
    job: Annotated[
        Path | None,
        typer.Option(
            help="the job file that will train on these rows: its model, prompts, sampling and rewards try them"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="model whose pass rate counts, else the job's; no model at all: rules alone")
    ] = None,
    tries: Annotated[int, typer.Option(min=2, max=1024, help="completions of each row (k of pass@k)")] = 8,
    temperature: Annotated[
        float | None, typer.Option(min=0.01, help="softmax temperature; absent: the job's, or 1")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="tokens of one completion; absent: the job's, or 2048")
    ] = None,
    right: Annotated[float, typer.Option(min=0, max=1, help="accuracy from which a completion is right")] = 0.5,
    least_pass: Annotated[float, typer.Option(min=0, max=1, help="answers: least share of right completions")] = 0.0,
    most_pass: Annotated[
        float, typer.Option(min=0, max=1, help="answers: greatest share; 1 keeps what is always right")
    ] = 0.999,
    least_iou: Annotated[float, typer.Option(min=0, max=1, help="boxes: least mean accuracy")] = 0.125,
    most_iou: Annotated[float, typer.Option(min=0, max=1, help="boxes: greatest mean accuracy")] = 0.625,
    rules: Annotated[bool, typer.Option("--rules/--no-rules", help="leave out rows by the paper's rules")] = True,
    duplicates: Annotated[bool, typer.Option("--keep-duplicates", help="keep rows that look the same")] = False,
    easy_first: Annotated[
        bool, typer.Option("--easy-first", help="order rows from easy to hard (a curriculum)")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable line")] = False,
) -> None:
    """Keep the rows that a model can learn from: not trivial, not hopeless.

    Needs running services (`triune up`) for the model's tries. Ended and run again, it goes on; run again with other
    thresholds, it generates nothing: the counts lie in OUT/passes.
    """
    with exit_codes():
        from services.data.curating.output import untried, write_selected
        from services.data.curating.passes import Passes, by_source
        from services.data.curating.report import write_report
        from services.data.curating.selection import Thresholds, selected
        from services.data.curating.shards import write_shards
        from shared.jobs.document import read_job
        from shared.runtime.settings import read_settings
        from shared.samples.files import open_file, open_files
        from shared.samples.places import Place
        from triune.cli.data.tries import Tries, as_job, tried

        plan = read_job(job) if job is not None else None
        asks = as_job(plan, model, {"temperature": temperature, "max_new_tokens": max_new_tokens})
        patterns = paths or (plan.data.train if plan is not None else [])
        if not patterns:
            raise UserError("no data: name files, folders or URIs, or a job file with --job")
        shards = write_shards(open_files(patterns), folder / "shards", rules=rules, duplicates=duplicates)
        if not shards.files:
            raise BadData(f"no row is left: {dict(shards.left_out)}")
        files = {path.name: open_file(Place(str(path))) for path in shards.files}
        how = Tries(asks, tries, right) if asks is not None else None
        passes: list[Passes] = []
        for name, file in files.items():
            console.print(f"{name}: {file.rows} rows", markup=False)
            passes += tried(file, folder / "passes", how, read_settings()) if how else untried(file)
        at = Thresholds(least_pass, most_pass, least_iou, most_iou)
        kept, reasons = selected(passes, at, easy_first=easy_first) if how else (passes, Counter())
        rows = write_selected(kept, files, folder / "curated")
        write_report(folder / "report.html", files, shards.left_out, passes if how else [], at)
        shares = by_source(passes)
        sums = {
            "tried": len(passes) if how else 0,
            "kept": rows,
            "left_out": dict(shards.left_out + reasons),
            "sources": {name: vars(share) for name, share in shares.items()},
        }
        if as_json:
            out.print(json.dumps(sums))
        else:
            _print(shares, shards.left_out + reasons)
            console.print(f"{rows} rows in {folder / 'curated'}; {folder / 'report.html'} shows some", markup=False)


def _print(shares: "dict[str, Share]", left_out: Counter[str]) -> None:
    if shares:
        table = Table("source", "rows tried", "right", "never right", "always right", box=None)
        for name, share in shares.items():
            table.add_row(name, str(share.rows), f"{share.right:.1%}", str(share.never), str(share.always))
        out.print(table)
    for name in [name for name, share in shares.items() if share.never == share.rows]:
        console.print(
            f"{name}: no completion was right: does the job ask as this model was trained? (--job)", markup=False
        )
    for reason, count in left_out.most_common():
        console.print(f"left out {count}: {reason}", markup=False)
