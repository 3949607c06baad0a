"""HTTP bodies: limits on the size of one and of all in work together, and a short way for the busiest routes."""

from collections.abc import Awaitable, Callable, Iterable, Mapping

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
        declared = _header(scope, b"content-length")
        hold = _Hold(self, int(declared) if declared.isdecimal() else 0)
        try:
            body = await self._read(hold, receive)
            if body is not None:
                await self._answer(scope, body, receive, send)
        except _Refused as refused:
            await refused.response(scope, receive, send)
        finally:
            self._held -= hold.size

    async def _read(self, hold: "_Hold", receive: Receive) -> bytes | None:
        """The whole body; None when the client has gone. Raises _Refused past a limit."""
        hold.reserve(hold.declared)
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            hold.reserve(size)
            more = message.get("more_body", False)
        return b"".join(chunks)

    def reserve(self, held: int, wanted: int) -> None:
        """Let one request that holds `held` bytes hold `wanted`; raises _Refused."""
        if wanted > self._largest:
            detail = f"the body is larger than {self._largest} bytes; send fewer samples at once"
            raise _Refused(JSONResponse({"detail": detail}, 413, {"Connection": "close"}))
        others = self._held - held
        if others and others + wanted > self._together:
            detail = f"{others} bytes of requests are in work, expected at most {self._together}; try again later"
            raise _Refused(JSONResponse({"detail": detail}, 429, {"Retry-After": "1", "Connection": "close"}))
        self._held += wanted - held

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        quick = self._quick.get(scope["path"]) if scope["method"] == "POST" else None
        response = await quick(_header(scope, b"content-type"), body) if quick else None
        if response is not None:
            await response(scope, receive, send)
            return
        first: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal first
            message, first = first, None
            return message if message is not None else await receive()

        await self._app(scope, replay, send)


def _header(scope: Scope, name: bytes) -> str:
    """The first header of that name, which ASGI gives in lower case; empty where there is none."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return next((value.decode("latin-1") for key, value in headers if key == name), "")


class _Refused(Exception):
    """A body past a limit, and what its client is told."""

    def __init__(self, response: Response) -> None:
        self.response = response
        super().__init__()


class _Hold:
    """The bytes that one request holds."""

    def __init__(self, gate: BodyGate, declared: int) -> None:
        self._gate, self.declared, self.size = gate, declared, 0

    def reserve(self, size: int) -> None:
        if size > self.size:
            self._gate.reserve(self.size, size)
            self.size = size
