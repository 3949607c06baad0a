"""The whole system on one machine: servers (embedded, or those that are given) and the five services as processes."""

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.errors import UserError
from shared.runtime.logging import set_up_logging
from shared.runtime.settings import api_token_file, is_durable
from triune.local.process import free_port, port_is_free
from triune.local.secret import local_secret
from triune.local.servers import LocalServers, local_servers
from triune.local.supervisor import QUICK_DEATHS, Command, Supervisor, serve_command

READY_S = 120.0
SPINS = "2000"
"""GOMP_SPINCOUNT: how often a compute thread looks for the next operation before it sleeps, some 50 µs.

Never (`OMP_WAIT_POLICY=passive`), and each small operation waits for a thread to wake; for milliseconds, which is the
default, and a service that waits takes the cores from those that work.
"""


@dataclass(frozen=True)
class Deployment:
    """What runs, and where its API is."""

    api_url: str
    runs: Path
    logs: Path
    supervisor: Supervisor
    servers: LocalServers | None
    """The embedded NATS and Redis; None when those of the environment are used."""
    token: str
    """What the API asks for."""

    @property
    def page_url(self) -> str:
        """The page's address with the token behind `#`, which no browser sends anywhere."""
        return f"{self.api_url}/#token={self.token}"

    @property
    def headers(self) -> dict[str, str]:
        """Of a request to the API."""
        return {"authorization": f"Bearer {self.token}"}


@contextlib.asynccontextmanager
async def deployed(
    runs: Path,
    folder: Path,
    *,
    replicas: Mapping[str, int],
    api_port: int | None = None,
    threads: Mapping[str, int] | None = None,
    env: Mapping[str, str] | None = None,
    command: Command = serve_command,
    quick_deaths: int = QUICK_DEATHS,
    ready_s: float = READY_S,
) -> AsyncIterator[Deployment]:
    """Start everything, wait until it is ready, and stop everything that was started at the end.

    `runs` and `folder` are absolute paths; `folder` holds the servers' data, the blobs and the logs. NATS_URL,
    REDIS_URL, TRIUNE_BLOBS, TRIUNE_API_TOKEN and TRIUNE_DURABLE are used when they are set; the token that is drawn
    otherwise lies where `read_settings` finds it. `api_port` None: a free one. `threads`: compute threads by service;
    `env`: more variables for all; `command`, `quick_deaths`: as for the supervisor; `ready_s`: how long the start may
    take. Raises UserError (busy port) or Unavailable (something does not become ready).
    """
    if api_port and not port_is_free(api_port):
        raise UserError(f"port {api_port} on 127.0.0.1 is in use, expected it free for the API (TRIUNE_API_PORT)")
    port = api_port or free_port()
    set_up_logging("supervisor", "local")  # standard output belongs to the command
    with contextlib.ExitStack() as stack:
        variables, servers = {**os.environ, **(env or {})}, None
        if not (variables.get("NATS_URL") and variables.get("REDIS_URL")):
            servers = stack.enter_context(local_servers(folder, durable=is_durable(variables)))
            variables.setdefault("NATS_URL", servers.nats.url)
            variables.setdefault("REDIS_URL", servers.redis.url)
        variables.setdefault("TRIUNE_BLOBS", (folder / "blobs").as_uri())
        token = variables.get("TRIUNE_API_TOKEN") or local_secret(api_token_file(runs))
        variables |= {
            "TRIUNE_API_TOKEN": token,
            "TRIUNE_RUNS": str(runs),
            "TRIUNE_API_URL": f"http://127.0.0.1:{port}",
            "TRIUNE_API_PORT": str(port),
            "TRIUNE_API_HOST": "127.0.0.1",
            "TOKENIZERS_PARALLELISM": "false",
            "GOMP_SPINCOUNT": SPINS,
        }
        logs = folder / "logs"
        extra = {name: {"OMP_NUM_THREADS": str(count)} for name, count in (threads or {}).items()}
        supervisor = Supervisor(
            services=dict(replicas),
            env=variables,
            env_by_service=extra,
            log_dir=logs,
            servers=servers,
            command=command,
            quick_deaths=quick_deaths,
        )
        async with supervisor:
            await supervisor.wait_ready(ready_s)
            yield Deployment(variables["TRIUNE_API_URL"], runs, logs, supervisor, servers, token)
