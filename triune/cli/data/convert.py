"""`triune data convert`: other data sets as files that a job reads."""

import json
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import TriuneError, UserError
from triune.cli.data.printing import out, progress
from triune.cli.errors import console, exit_codes


def convert(
    source: Annotated[Path, typer.Argument(help="file or folder of the data set")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="folder for the parquet files, new or of this source")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--format", help="coco, voc, yolo, table (JSON Lines, parquet, Arrow, TSV) or orsta; told if absent"
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="data_source of the rows; the source's name if absent")] = None,
    images: Annotated[Path | None, typer.Option(help="folder of the images; beside the annotations if absent")] = None,
    ability: Annotated[str, typer.Option(help="the task of rows that name none; boxes are cv_detection")] = "reasoning",
    verifier: Annotated[str, typer.Option(help="of all answers; told from each answer if absent")] = "",
    question: Annotated[str, typer.Option(help="column of the question, if it has no usual name")] = "",
    answer: Annotated[str, typer.Option(help="column of the answer, if it has no usual name")] = "",
    image: Annotated[str, typer.Option(help="column of the images, if it has no usual name")] = "",
    preview: Annotated[int, typer.Option(min=0, help="rows to draw into preview.html; 0: none")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable line")] = False,
) -> None:
    """Write a data set as parquet in the schema of Orsta-Data-47k, in row groups of at most 64 MB.

    Run again after it was ended, it goes on. What cannot be converted is left out, counted by its reason.
    """
    with exit_codes():
        from services.data.converting.kinds import CONVERTERS, told_kind
        from services.data.converting.options import Options
        from services.data.converting.preview import write_preview
        from services.data.converting.writer import write
        from shared.samples.verifiers import known_verifiers, verifiers_there_are

        kind = kind or told_kind(source)
        if kind not in CONVERTERS:
            raise UserError(f"--format is {kind!r}; expected one of {', '.join(CONVERTERS)}")
        if verifier and verifier not in known_verifiers():
            raise UserError(f"--verifier is {verifier!r}; {verifiers_there_are(verifier, known_verifiers())}")
        title = name or (source.stem if source.is_file() else source.resolve().name)
        options = Options(title, images, ability, verifier, question, answer, image)
        try:
            with progress(quiet=as_json) as bars:
                bar = bars.add_task(f"converting {kind}", total=None)
                done = write(
                    CONVERTERS[kind](source, options),
                    folder,
                    origin=f"{source.resolve()} (--format {kind} {options})",
                    name=title.replace("/", "_"),
                    advance=lambda count: bars.advance(bar, count),
                )
            if preview and done.rows:
                write_preview(folder, folder / "preview.html", rows=preview)
        except OSError as error:
            raise TriuneError(f"{folder} cannot be written: {error.strerror or error}") from error
        if as_json:
            sums = {"format": kind, "rows": done.rows, "files": done.files, "left_out": done.left_out.told()}
            out.print(json.dumps(sums))
        else:
            for reason, count in done.left_out.told().items():
                console.print(f"left out {count}: {reason}", markup=False)
            console.print(f"{done.rows} rows in {len(done.files)} files under {folder}", markup=False)
        if not done.rows:
            raise UserError(f"{source}: nothing could be converted")
