"""HTTP bodies: limits on the size of one and of all in work together, and a short way for the busiest routes."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Quick = Callable[[str, bytes], Awaitable[Response | None]]
"""Content type and body → the response; None: leave it to the application."""


class BodyGate:
    """Reads each body whole and passes it on: to `quick` where that has the path, else to `app`.

    413 for a body above `largest` bytes, 429 while `together` would be passed; a single one is taken whenever none is
    in work. A client that declares no length, or a wrong one, is cut off at `largest`.
    """

    def __init__(self, app: ASGIApp, quick: Mapping[str, Quick], *, largest: int, together: int) -> None:
        self._app, self._quick, self._largest, self._together = app, quick, largest, together
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        size = int(declared) if declared.isdecimal() else 0
        if size > self._largest:
            await self._too_large()(scope, receive, send)
            return
        if self._held and self._held + size > self._together:
            detail = f"{self._held} bytes of requests are in work, expected at most {self._together}; try again later"
            await JSONResponse({"detail": detail}, 429, {"Retry-After": "1"})(scope, receive, send)
            return
        self._held += size
        try:
            await self._pass_on(scope, receive, send)
        finally:
            self._held -= size

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
            if size > self._largest:
                await self._too_large()(scope, receive, send)
                return
        await self._answer(scope, b"".join(chunks), receive, send)

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        quick = self._quick.get(scope["path"]) if scope["method"] == "POST" else None
        response = await quick(Headers(scope=scope).get("content-type", ""), body) if quick else None
        if response is not None:
            await response(scope, receive, send)
            return
        first: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal first
            message, first = first, None
            return message if message is not None else await receive()

        await self._app(scope, replay, send)

    def _too_large(self) -> JSONResponse:
        detail = f"the body is larger than {self._largest} bytes; send fewer samples at once"
        return JSONResponse({"detail": detail}, 413, {"Connection": "close"})
