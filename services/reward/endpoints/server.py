"""Calls to an OpenAI-compatible server: a whole answer within its limit, or an error that shows no key."""

import asyncio
import base64
from collections.abc import Mapping

import httpx
import msgspec

from shared.errors import Unavailable

_CONNECT_S = 5.0
_KINDS = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"), (b"BM", "bmp"))


class TooLarge(Exception):
    """An answer of more bytes than were allowed; its text is a sentence for people."""


class Server:
    """What answers below `url`, which ends in `/v1` with most servers; `name` is what errors call it.

    The key goes into the header `Authorization` and nowhere else.
    """

    def __init__(self, name: str, url: str, key: str | None) -> None:
        self._name, self._url, self._key = name, url.rstrip("/"), key or ""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._http = httpx.AsyncClient(headers=headers, limits=httpx.Limits(max_connections=None))

    async def post(self, path: str, body: Mapping[str, object], *, limit_s: float, most: int) -> tuple[int, bytes]:
        """Status and body of the answer, which is there within `limit_s` and has at most `most` bytes.

        Raises Unavailable when there is none, TooLarge.
        """
        content, timeout = msgspec.json.encode(body), httpx.Timeout(None, connect=_CONNECT_S)
        try:
            async with (
                asyncio.timeout(limit_s),  # over all: a server that sends a byte at a time passes limits of reads
                self._http.stream("POST", self._url + path, content=content, timeout=timeout) as response,
            ):
                return response.status_code, await self._whole(response, most)
        except TimeoutError:
            raise Unavailable(f"{self._name} at {self._url} does not answer within {limit_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(self.clean(f"{self._name} at {self._url} does not answer: {error!r}")) from None

    async def _whole(self, response: httpx.Response, most: int) -> bytes:
        parts, size = [], 0
        async for part in response.aiter_bytes():
            parts.append(part)
            size += len(part)
            if size > most:
                raise TooLarge(f"the answer of {self._name} is larger than {most} bytes")
        return b"".join(parts)

    def told(self, status: int, text: bytes) -> str:
        """An answer as an error shows it."""
        return self.clean(f"{self._name} at {self._url} answers {status}: {text[:300].decode(errors='replace')}")

    def clean(self, text: str) -> str:
        """`text` without the key."""
        return text.replace(self._key, "***") if self._key else text

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def data_url(image: bytes) -> str:
    """An encoded image as a `data:` URL."""
    kind = next((kind for mark, kind in _KINDS if image.startswith(mark)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
