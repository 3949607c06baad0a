"""HTTP of a service: health and metrics on every one, and a server that stops when its task is cancelled."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.errors import UserError

KEEP_ALIVE_S = 75
"""How long an idle connection stays open: longer than a training step between two bursts of requests usually is."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address or name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def health_app(service: str, is_ready: Callable[[], bool]) -> FastAPI:
    """`/healthz` (the process answers), `/readyz` (it can do its work), `/metrics` (Prometheus)."""
    app = FastAPI(title=f"triune {service}", docs_url=None, redoc_url=None, openapi_url=None)
    add_health_routes(app, is_ready)
    return app


def add_health_routes(app: FastAPI, is_ready: Callable[[], bool]) -> None:
    """The three routes, on an app that has others too."""

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "not ready yet"}})
    async def readyz(response: Response) -> dict[str, str]:
        if is_ready():
            return {"status": "ready"}
        response.status_code = 503
        return {"status": "not ready"}

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


class _Server(uvicorn.Server):
    """A uvicorn server that leaves the process's signals to the service, and tells when it listens."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Gathering:
    """A connection's transport that writes at once what is written in one turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        if data and not self._transport.is_closing():
            self._transport.write(data)


class _ShortAnswers(HttpToolsProtocol):
    """Head and body of a response in one write: each is a system call, and wakes the client."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", _Gathering(transport, self.loop)))


async def serve_http(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    short_answers: bool = False,
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Serve `app` until cancelled; raises UserError when the port is taken, else calls `on_listening`.

    With `short_answers` it is made for many small responses, and not for long ones that are sent in parts.
    """
    config = uvicorn.Config(
        app,
        http=_ShortAnswers if short_answers else "auto",
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    server = _Server(config, on_listening)
    try:
        await server.serve()
    except asyncio.CancelledError:
        if server.started:
            await server.shutdown()  # uvicorn leaves its sockets open when it is cancelled
        raise
    except SystemExit as error:  # uvicorn's answer to a port that it cannot bind
        raise UserError(f"cannot listen on {host}:{port}: the port is taken or not allowed") from error
