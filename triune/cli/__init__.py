"""The `triune` command."""

import importlib
import sys
from typing import Annotated

import httpx
import typer

from shared.errors import UserError
from shared.runtime.settings import read_settings
from triune.cli import data, demo, env, jobs, reward, trace, up
from triune.cli.errors import FAILED, exit_codes

SERVICES = ("data", "rollout", "reward", "learner", "monitor")

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
app.command("demo")(demo.demo)
app.command("up")(up.up)
app.command("trace")(trace.trace)


@app.command()
def serve(service: Annotated[str, typer.Argument(help=f"one of {', '.join(SERVICES)}")]) -> None:
    """Run one service in this process, with addresses from the environment (NATS_URL, REDIS_URL, …)."""
    with exit_codes():
        if service not in SERVICES:
            raise UserError(f"no service {service!r}; there are {', '.join(SERVICES)}")
    # By name, so that no other service's libraries are loaded: the import contracts cannot see this line.
    raise typer.Exit(importlib.import_module(f"services.{service}.app").main())


@app.command()
def health() -> None:
    """Ask this container's own service whether it is ready: exit code 0 if it is, 1 if not."""
    with exit_codes():
        settings = read_settings()
        host = "127.0.0.1" if settings.health_host == "0.0.0.0" else settings.health_host
        try:
            ready = httpx.get(f"http://{host}:{settings.health_port}/readyz", timeout=3.0).is_success
        except httpx.TransportError:
            ready = False
    sys.stdout.write("ready\n" if ready else "not ready\n")
    raise typer.Exit(0 if ready else FAILED)


def main() -> None:
    """Entry point of the console script."""
    app()
