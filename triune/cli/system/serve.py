"""`triune serve`: one service in this process."""

import importlib
from typing import Annotated

import typer

from shared.errors import UserError
from triune.cli.errors import exit_codes

SERVICES = ("data", "rollout", "reward", "learner", "monitor")


def serve(service: Annotated[str, typer.Argument(help=f"one of {', '.join(SERVICES)}")]) -> None:
    """Run one service in this process, with addresses from the environment (NATS_URL, REDIS_URL, …)."""
    with exit_codes():
        if service not in SERVICES:
            raise UserError(f"no service {service!r}; there are {', '.join(SERVICES)}")
    # By name, so that no other service's libraries are loaded: the import contracts cannot see this line.
    raise typer.Exit(importlib.import_module(f"services.{service}.app").main())
