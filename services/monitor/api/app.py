"""The REST API: one FastAPI application, its error bodies, and who may ask.

Every answer also comes while the other services are down; without the bus, reads show what was seen last and writes are
refused with 503.
"""

import hmac
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
import pyarrow as pa
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.monitor.api.docs import add_docs, with_bearer
from services.monitor.api.shapes import Mistakes
from services.monitor.config import MonitorConfig
from shared.errors import BadJob, Refused, Unavailable, UserError
from shared.jobs.record import IllegalMove, UnknownJob
from shared.jobs.spec import JobSpec
from shared.runtime.http import add_health_routes, is_loopback
from shared.runtime.logging import get_logger
from shared.runtime.retry import within
from shared.runtime.settings import Settings

PATIENCE_S = 5.0
"""How long a request waits for the bus or the blob store before it is answered with 503, or with what was seen last."""
AWAY_S = 0.1
"""How long a question waits while a peer is known to be away: what was seen last is worth more at once."""
OPEN_PATHS = ("/healthz", "/readyz")
"""Answered without a token; so are the page's own files, which hold no data."""
PAGE_PATHS = ("/", "/page/", "/docs", "/openapi.json", "/favicon.ico")

DOCUMENTED_ERRORS: dict[int | str, dict[str, object]] = {
    401: {"model": Mistakes, "description": "the bearer token is missing or wrong"},
    403: {"model": Mistakes, "description": "the request comes from another site's page"},
    404: {"model": Mistakes, "description": "there is no such job"},
    409: {"model": Mistakes, "description": "the job's state does not allow it"},
    413: {"model": Mistakes, "description": "the body is too large"},
    422: {"model": Mistakes, "description": "the request has mistakes; all of them are listed"},
    500: {"model": Mistakes, "description": "a fault of ours; the monitor's log has the traceback"},
    503: {"model": Mistakes, "description": "the bus or the disk does not answer"},
}


def create_app(
    settings: Settings,
    config: MonitorConfig,
    routers: Sequence[APIRouter],
    is_ready: Callable[[], bool],
    is_waiting: Callable[[], bool],
) -> FastAPI:
    """The application; `is_waiting`: whether a peer is known to be away.

    Raises UserError when it is bound to more than loopback without a token.
    """
    if settings.api_token is None and not is_loopback(settings.api_host):
        raise UserError(
            f"the API is bound to {settings.api_host}, which others can reach; "
            "set TRIUNE_API_TOKEN, or bind it to 127.0.0.1"
        )
    app = FastAPI(
        title="Triune",
        summary="Jobs, curves and samples of reinforcement-learning runs.",
        version="1",
        docs_url=None,
        redoc_url=None,
        responses=DOCUMENTED_ERRORS,
    )
    _document_job_file(app)
    app.add_middleware(Gate, token=settings.api_token, body_bytes=config.body_bytes, is_waiting=is_waiting)
    _add_error_handlers(app)
    for router in routers:
        app.include_router(router)
    add_health_routes(app, is_ready)
    add_docs(app)
    return app


def _document_job_file(app: FastAPI) -> None:
    """Put the job file's tables among the schemas of the OpenAPI document; msgspec declares them, not pydantic."""
    made_by_fastapi = app.openapi
    _, components = msgspec.json.schema_components([JobSpec], ref_template="#/components/schemas/{name}")

    def openapi() -> dict[str, Any]:
        document = made_by_fastapi()
        document["components"]["schemas"].update(components)
        return with_bearer(document)

    app.openapi = openapi  # type: ignore[method-assign]


class Gate:
    """Who may ask, and how much: with a token, who knows it; without one, programs and pages of this machine."""

    def __init__(self, app: ASGIApp, token: str | None, body_bytes: int, is_waiting: Callable[[], bool]) -> None:
        self._app, self._token, self._body_bytes, self._is_waiting = app, token, body_bytes, is_waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refusal = _refusal(request, self._token) or self._too_large(request)
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            with within(AWAY_S if request.method == "GET" and self._is_waiting() else PATIENCE_S):
                await self._app(scope, self._limited(receive), send)

    def _too_large(self, request: Request) -> Response | None:
        announced = request.headers.get("content-length", "0")
        too_large = announced.isdecimal() and int(announced) > self._body_bytes
        return _answer(413, self._limit_text) if too_large else None

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that refuses a body which turns out too large while it comes."""
        total = 0

        async def limited() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._body_bytes:
                raise HTTPException(413, self._limit_text)
            return message

        return limited

    @property
    def _limit_text(self) -> str:
        return f"the body is larger than {self._body_bytes} bytes"


def _refusal(request: Request, token: str | None) -> Response | None:
    path = request.url.path
    if path in OPEN_PATHS:
        return None
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if origin is not None and _split(origin).netloc != host:
        return _answer(403, f"the request comes from a page of {origin}; only the API's own page may ask")
    if token is None:
        name = _split(f"//{host}").hostname or ""
        if not is_loopback(name):
            return _answer(403, f"the request is for host {name!r}; without a token only loopback names are answered")
        return None
    if path == "/" or path.startswith(PAGE_PATHS[1:]):
        return None
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        refusal = _answer(401, "the bearer token is missing or wrong")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal
    return None


def _split(address: str) -> SplitResult:
    """The parts of an address; of what is none (`[::1`, say) nothing."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _answer(status: int, error: str, mistakes: Sequence[str] = ()) -> JSONResponse:
    return JSONResponse({"error": error, "mistakes": list(mistakes)}, status)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(BadJob)
    async def on_bad_job(_: Request, error: BadJob) -> JSONResponse:
        count = len(error.mistakes)
        text = error.mistakes[0] if count == 1 else f"the request has {count} mistakes"
        return _answer(422, text, error.mistakes)

    @app.exception_handler(RequestValidationError)
    async def on_bad_request(_: Request, error: RequestValidationError) -> JSONResponse:
        mistakes = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        return _answer(422, "the request has mistakes", mistakes)

    @app.exception_handler(IllegalMove)
    @app.exception_handler(Refused)
    async def on_conflict(_: Request, error: Exception) -> JSONResponse:
        return _answer(409, str(error))

    @app.exception_handler(UnknownJob)
    async def on_unknown_job(_: Request, error: UnknownJob) -> JSONResponse:
        return _answer(404, str(error))

    @app.exception_handler(Unavailable)
    async def on_unavailable(_: Request, error: Unavailable) -> JSONResponse:
        return _answer(503, str(error))

    @app.exception_handler(OSError)
    @app.exception_handler(sqlite3.Error)
    @app.exception_handler(pa.ArrowException)
    async def on_unusable_folder(_: Request, error: Exception) -> JSONResponse:
        return _answer(503, f"the run folder cannot be used: {error}")

    @app.exception_handler(HTTPException)
    async def on_http_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail, "mistakes": []}, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def on_fault(request: Request, error: Exception) -> JSONResponse:
        where = f"{request.method} {request.url.path}"
        get_logger().error("a request met a fault of ours", request=where, exc_info=error)
        return _answer(500, f"{where} met a fault of ours, {type(error).__name__}; the monitor's log has the traceback")
