"""The `triune` command."""

import importlib
from typing import Annotated

import typer

from shared.errors import UserError
from triune.cli import compare, data, demo, doctor, env, export, health, jobs, logs, replay, reward, runs, trace, up
from triune.cli.errors import exit_codes
from triune.cli.health import SERVICES

app = typer.Typer(
    name="triune",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reinforcement-learning post-training of vision-language models, as five services on a message bus.",
)
app.add_typer(jobs.app, name="job")
app.add_typer(data.app, name="data")
app.add_typer(reward.app, name="reward")
app.add_typer(env.app, name="env")
app.add_typer(runs.app, name="runs")
for command in (compare.diff, compare.clone, logs.logs):
    jobs.app.command()(command)
app.command("demo")(demo.demo)
app.command("up")(up.up)
app.command("trace")(trace.trace)
app.command("export")(export.export)
app.command("replay")(replay.replay)
app.command("doctor")(doctor.doctor)
app.command("health")(health.health)


@app.command()
def serve(service: Annotated[str, typer.Argument(help=f"one of {', '.join(SERVICES)}")]) -> None:
    """Run one service in this process, with addresses from the environment (NATS_URL, REDIS_URL, …)."""
    with exit_codes():
        if service not in SERVICES:
            raise UserError(f"no service {service!r}; there are {', '.join(SERVICES)}")
    # By name, so that no other service's libraries are loaded: the import contracts cannot see this line.
    raise typer.Exit(importlib.import_module(f"services.{service}.app").main())


def main() -> None:
    """Entry point of the console script."""
    app()
