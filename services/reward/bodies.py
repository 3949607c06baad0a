"""Limits on HTTP bodies, before anything reads them: the size of one, and of all that are in work together."""

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyGate:
    """Reads each body whole and passes it on: 413 for one above `largest` bytes, 429 while `together` would be passed.

    A single body is taken whenever none is in work. A client that declares no length, and lies, is cut off at
    `largest`.
    """

    def __init__(self, app: ASGIApp, *, largest: int, together: int) -> None:
        self._app, self._largest, self._together = app, largest, together
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
        body: Message | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def replay() -> Message:
            nonlocal body
            first, body = body, None
            return first if first is not None else await receive()

        await self._app(scope, replay, send)

    def _too_large(self) -> JSONResponse:
        detail = f"the body is larger than {self._largest} bytes; send fewer samples at once"
        return JSONResponse({"detail": detail}, 413, {"Connection": "close"})
