"""`triune health`: is it ready? In a service's container that service; elsewhere the whole deployment."""

from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from shared.runtime.settings import Settings, read_settings
from triune.cli.client import Api
from triune.cli.errors import FAILED, exit_codes
from triune.cli.lines import say_json
from triune.cli.system.serve import SERVICES

ANSWER_S = 3.0

out = Console(highlight=False)


def health(as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False) -> None:
    """Exit code 0 if ready: this process's own service where TRIUNE_HEALTH_PORT is set, else the whole deployment."""
    with exit_codes():
        settings = read_settings()
        is_ready = _own(settings, as_json) if settings.health_port else _all(Api(settings), as_json)
        if not is_ready:
            raise typer.Exit(FAILED)


def _own(settings: Settings, as_json: bool) -> bool:
    host = "127.0.0.1" if settings.health_host == "0.0.0.0" else settings.health_host
    try:
        ready = httpx.get(f"http://{host}:{settings.health_port}/readyz", timeout=ANSWER_S, trust_env=False).is_success
    except httpx.TransportError:
        ready = False
    say_json({"ready": ready}) if as_json else out.print("ready" if ready else "not ready")
    return ready


def _all(api: Api, as_json: bool) -> bool:
    """Every service has a replica that lives; the monitor is the one that answers."""
    shown = api.get("/v1/services")
    alive: dict[str, list[dict[str, Any]]] = {name: [] for name in SERVICES}
    silent: dict[str, str] = {}
    for replica in shown["replicas"]:
        if replica["alive"]:
            alive.setdefault(replica["service"], []).append(replica)
        else:
            silent[replica["service"]] = f"silent for {replica['heard_s_ago']:.0f} s, it was {replica['state']}"
    missing = [name for name, replicas in alive.items() if not replicas]
    away = shown["waiting_for"]
    if as_json:
        facts = {"replicas": {name: len(replicas) for name, replicas in alive.items()}, "waiting_for": away}
        say_json({"ready": not missing, "active_job": shown["active_job"], **facts})
        return not missing
    table = Table("service", "replicas", "state", box=None)
    for name, replicas in alive.items():
        states = sorted({replica["state"] for replica in replicas})
        table.add_row(name, str(len(replicas)), ", ".join(states) or f"[red]{silent.get(name, 'no sign of life')}[/]")
    out.print(table)
    out.print("ready" if not missing else f"not ready: no {' and no '.join(missing)}")
    if away:
        unheard = "; no other service can be heard meanwhile" if away.startswith("NATS") else ""
        out.print(f"the monitor waits for {away}{unheard}")
    return not missing
