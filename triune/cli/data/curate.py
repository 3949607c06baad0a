"""`triune data curate`: rules, then how often a model already succeeds, through the services that run."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import BadData
from triune.cli.data.printing import out
from triune.cli.errors import console, exit_codes


def curate(
    paths: Annotated[list[str], typer.Argument(metavar="DATA...", help="files, folders, patterns or URIs")],
    folder: Annotated[Path, typer.Option("--out", help="folder for shards, pass counts, curated rows and report.html")],
    model: Annotated[str | None, typer.Option(help="model whose pass rate counts; absent: rules alone")] = None,
    tries: Annotated[int, typer.Option(min=2, max=1024, help="completions of each row (k of pass@k)")] = 8,
    temperature: Annotated[float, typer.Option(min=0.01, help="softmax temperature")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens of one completion")] = 2048,
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
        from services.data.curating.passes import Passes
        from services.data.curating.report import write_report
        from services.data.curating.selection import Thresholds, selected
        from services.data.curating.shards import write_shards
        from shared.runtime.settings import read_settings
        from shared.samples.files import open_file, open_files
        from shared.samples.places import Place
        from triune.cli.data.tries import Tries, tried

        shards = write_shards(open_files(paths), folder / "shards", rules=rules, duplicates=duplicates)
        if not shards.files:
            raise BadData(f"no row is left: {dict(shards.left_out)}")
        files = {path.name: open_file(Place(str(path))) for path in shards.files}
        passes: list[Passes] = []
        for name, file in files.items():
            console.print(f"{name}: {file.rows} rows", markup=False)
            how = Tries(model, tries, temperature, max_new_tokens, right) if model else None
            passes += tried(file, folder / "passes", how, read_settings()) if how else untried(file)
        at = Thresholds(least_pass, most_pass, least_iou, most_iou)
        kept, reasons = selected(passes, at, easy_first=easy_first) if model else (passes, Counter())
        rows = write_selected(kept, files, folder / "curated")
        write_report(folder / "report.html", files, shards.left_out, passes if model else [], at)
        sums = {"tried": len(passes) if model else 0, "kept": rows, "left_out": dict(shards.left_out + reasons)}
        if as_json:
            out.print(json.dumps(sums))
        else:
            for reason, count in (shards.left_out + reasons).most_common():
                console.print(f"left out {count}: {reason}", markup=False)
            console.print(f"{rows} rows in {folder / 'curated'}; {folder / 'report.html'} shows some", markup=False)
