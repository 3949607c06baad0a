"""`triune demo`: from nothing to a tiny model that got better at eight tasks."""

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from shared.runtime.settings import read_settings
from triune.cli.errors import exit_codes
from triune.cli.jobs.watch import result_table

out = Console(highlight=False)


class DemoFamily(StrEnum):
    """Families of which the demo has a tiny model."""

    qwen2_5_vl = "qwen2_5_vl"
    qwen3_vl = "qwen3_vl"


def demo(
    max_staleness: Annotated[
        int | None, typer.Option(min=0, help="η: versions that rollouts may be old; 0 is on-policy")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="training steps")] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the order and the sampling")] = 0,
    family: Annotated[DemoFamily, typer.Option(help="model_type of the tiny model")] = DemoFamily.qwen2_5_vl,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="leave everything up until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the report, in place of its table")] = False,
) -> None:
    """Train a tiny vision-language model on eight drawn tasks on this machine, and show what it learned."""
    with exit_codes():
        from triune.demo.main import Options, run_demo

        report = run_demo(read_settings(), Options(max_staleness, steps, seed, keep_running, family.value))
        if as_json:
            sys.stdout.write(f"{json.dumps(report)}\n")
            return
        out.print(result_table(report))
        groups, staleness = report["groups"], report["staleness"]
        out.print(
            f"{report['steps']} steps in {report['wall_s']:.0f} s; groups: {groups['published']} published = "
            f"{groups['trained']} trained + {groups['void']} void; staleness mean {staleness['mean']:.2f}, "
            f"max {staleness['max']} (bound {staleness['bound']})"
        )
        out.print(f"run folder: {read_settings().runs / report['job_id']}")
