"""`triune up`: the whole system on this machine, until Ctrl-C."""

import asyncio
import contextlib
import signal
from typing import Annotated

import typer
from rich.console import Console

from shared.runtime.settings import api_token_file, local_folder, read_settings
from triune.cli.errors import exit_codes
from triune.local.deployment import Deployment, deployed
from triune.local.supervisor import ranked_command, serve_command

out = Console(highlight=False)


def up(
    reward: Annotated[int, typer.Option(min=1, help="reward replicas")] = 1,
    rollout: Annotated[int, typer.Option(min=1, help="rollout replicas")] = 1,
    learner_ranks: Annotated[int, typer.Option(min=1, help="learner processes, for learner.engine = deepspeed")] = 1,
) -> None:
    """Start NATS, Redis and the five services on this machine, with the API on 127.0.0.1:8000; Ctrl-C stops them.

    A terminal that is closed stops them, too: for weeks, use `nohup triune up &`, tmux or containers.
    """
    with exit_codes():
        asyncio.run(_up({"data": 1, "rollout": rollout, "reward": reward, "learner": 1, "monitor": 1}, learner_ranks))


async def _up(replicas: dict[str, int], learner_ranks: int) -> None:
    stop = asyncio.Event()
    is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # it outlives its terminal
    for number in (signal.SIGINT, signal.SIGTERM, *(() if is_nohup else (signal.SIGHUP,))):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running, stopping = asyncio.create_task(_run(replicas, learner_ranks)), asyncio.create_task(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not running.done():  # also while it is still starting
        out.print("stopping")
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _run(replicas: dict[str, int], learner_ranks: int) -> None:
    """Until it is cancelled, or a service cannot be kept running, which is raised."""
    settings = read_settings()
    out.print("starting NATS, Redis and the services")
    command = serve_command if learner_ranks == 1 else ranked_command(learner_ranks)
    async with deployed(
        settings.runs, local_folder(settings.runs), replicas=replicas, api_port=settings.api_port, command=command
    ) as system:
        _greet(system)
        await system.supervisor.watch()


def _greet(system: Deployment) -> None:
    out.print(f"page: {system.page_url}", soft_wrap=True)
    out.print(
        f"run folders: {system.runs}   logs: {system.logs}   API token: {api_token_file(system.runs)}", soft_wrap=True
    )
    out.print("submit a job with `triune job submit FILE --watch`; Ctrl-C stops everything")
