"""`triune reward …`: the reward service alone, for any trainer, and the scoring of a file."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from shared.errors import UserError
from shared.runtime.settings import read_settings
from triune.cli.errors import FAILED, exit_codes

if TYPE_CHECKING:
    from services.reward.config import RewardConfig
    from services.reward.http.wire import ScoreResult

app = typer.Typer(no_args_is_help=True, help="Judge completions: an HTTP server, or a file.")
out = Console(highlight=False, soft_wrap=True)

_WORKERS = typer.Option(min=1, max=256, help="worker processes; default: one a core")
_THRESHOLD = typer.Option(
    help="dynamic, average or a number from 0 to 1; default: DET_IOU_THRESHOLD if set, else dynamic"
)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 8192,
    workers: Annotated[int | None, _WORKERS] = None,
    iou_threshold: Annotated[str | None, _THRESHOLD] = None,
    token: Annotated[str | None, typer.Option(help="bearer token; default: TRIUNE_REWARD_TOKEN, else none")] = None,
) -> None:
    """Serve rewards to any trainer (POST /v1/score, /judge, /get_reward, /rm, /verify) until Ctrl-C.

    With JOB_ID set, the server is announced in .reward_server/JOB_ID/ as V-Triune's trainers expect.
    """
    with exit_codes():
        import uvloop

        from services.reward.app import deployed, serve_alone
        from shared.runtime.logging import set_up_logging

        settings = read_settings()
        config = deployed(_config(workers, iou_threshold), settings)
        token = token or settings.reward_token
        set_up_logging("reward", settings.replica)

        def greet() -> None:
            out.print(f"reward server on http://{host}:{port} with {config.workers} workers; Ctrl-C stops it")
            if token is None and host not in ("127.0.0.1", "::1", "localhost"):
                out.print("without --token whoever reaches this address may use it")

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_alone(config, settings, host, port, token=token, on_listening=greet))


@app.command()
def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="completions as .jsonl or .parquet")],
    workers: Annotated[int | None, _WORKERS] = None,
    iou_threshold: Annotated[str | None, _THRESHOLD] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON line a sample, in order")] = False,
) -> None:
    """Score a file; a row needs completion, verifier and ground_truth. Exit code 1 if a sample could not be scored."""
    with exit_codes():
        totals = asyncio.run(_score(file, _config(workers, iou_threshold), as_json=as_json))
        if not as_json:
            _tell(totals)
    if any(total.errors for total in totals.values()):
        raise typer.Exit(FAILED)


@dataclass
class _Total:
    """What became of the samples of one verifier."""

    scored: int = 0
    errors: int = 0
    final: float = 0.0
    accuracy: float = 0.0
    first_error: str = field(default="")


def _config(workers: int | None, iou_threshold: str | None) -> RewardConfig:
    """The service's settings; raises UserError for a threshold that is none."""
    from services.reward.boxes.thresholds import parse_threshold
    from services.reward.config import RewardConfig

    default = RewardConfig()
    given = iou_threshold if iou_threshold is not None else read_settings().det_iou_threshold
    try:
        threshold = parse_threshold(given) if given is not None else default.iou_threshold
    except ValueError as error:
        raise UserError(str(error)) from error
    return RewardConfig(workers=workers or os.cpu_count() or 1, iou_threshold=threshold)


async def _score(file: Path, config: RewardConfig, *, as_json: bool) -> dict[str, _Total]:
    from services.reward.app import deployed
    from services.reward.metrics import instruments
    from services.reward.offline import count_rows, score_file
    from services.reward.scoring import make_scorer

    config = deployed(config, read_settings())
    rows, totals = count_rows(file), {}  # type: int, dict[str, _Total]
    with _progress() as progress:
        bar = progress.add_task("scoring", total=rows)
        async with make_scorer(config, instruments()) as scorer:
            number = 0
            async for chunk in score_file(file, scorer, config):
                for sample, result in chunk:
                    number += 1
                    total = totals.setdefault(sample.verifier, _Total())
                    _count(total, result, number)
                    if as_json:
                        typer.echo(json.dumps({"row": number, **msgspec.to_builtins(result)}))
                progress.advance(bar, len(chunk))
    return totals


def _count(total: _Total, result: ScoreResult, row: int) -> None:
    if result.status == "ok":
        total.scored += 1
        total.final += result.final or 0.0
        total.accuracy += result.accuracy or 0.0
    else:
        total.errors += 1
        total.first_error = total.first_error or f"row {row}: {result.error}"


def _tell(totals: dict[str, _Total]) -> None:
    table = Table("verifier", "scored", "mean reward", "mean accuracy", "errors")
    for name, total in sorted(totals.items()):
        means = [f"{value / total.scored:.4f}" if total.scored else "-" for value in (total.final, total.accuracy)]
        table.add_row(name, str(total.scored), *means, str(total.errors))
    out.print(table)
    for total in totals.values():
        if total.errors:
            out.print(f"first of {total.errors} errors: {total.first_error}", markup=False)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
