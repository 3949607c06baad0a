"""The REST API as the command line calls it."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx

from shared.errors import Unavailable, UserError
from shared.runtime.settings import Settings

TIMEOUT_S = 30.0
PAGE = 200


class Api:
    """A client of the monitor; raises UserError with the API's own sentences, Unavailable when it does not answer."""

    def __init__(self, settings: Settings) -> None:
        headers = {"authorization": f"Bearer {settings.api_token}"} if settings.api_token else {}
        self.url = settings.api_url
        once = httpx.Limits(max_keepalive_connections=0)  # nothing stays open between calls, so nothing is to be closed
        self._client = httpx.Client(base_url=settings.api_url, headers=headers, timeout=TIMEOUT_S, limits=once)

    def get(self, path: str, **query: Any) -> Any:
        return self._call("GET", path, params=query)

    def jobs(self) -> Iterator[dict[str, Any]]:
        """All jobs, the newest first, page by page."""
        before: dict[str, Any] = {}
        while True:
            page = self.get("/v1/jobs", limit=PAGE, **before)
            yield from reversed(page["jobs"])
            if page["next"] is None:
                return
            before = {"before": page["next"]}

    def post(self, path: str, **query: Any) -> Any:
        return self._call("POST", path, params=query)

    def submit(self, toml: str) -> dict[str, Any]:
        """Submit a job file; raises UserError with every mistake."""
        return self._call("POST", "/v1/jobs", content=toml, headers={"content-type": "application/toml"})

    def validate(self, toml: str) -> dict[str, Any]:
        """The resolved numbers of a job file; nothing is started."""
        return self._call("POST", "/v1/jobs:validate", content=toml, headers={"content-type": "application/toml"})

    def patch(self, path: str, changes: dict[str, Any]) -> Any:
        return self._call("PATCH", path, json=changes)

    def delete(self, path: str, **query: Any) -> Any:
        return self._call("DELETE", path, params=query)

    def until_unknown(self, path: str, limit_s: float) -> None:
        """Return when nothing is known under `path`; raises Unavailable after `limit_s`."""
        until = time.monotonic() + limit_s
        while self._client.get(path).status_code != httpx.codes.NOT_FOUND:
            if time.monotonic() > until:
                raise Unavailable(
                    f"{path} is still there after {limit_s:g} s; it is removed as soon as the job has ended"
                )
            time.sleep(0.2)

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self._client.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise Unavailable(f"the API at {self.url} does not answer ({error}); is `triune up` running?") from error
        if response.is_error:
            raise _error(response)
        return response.json()


def _error(response: httpx.Response) -> Exception:
    try:
        body = response.json()
    except json.JSONDecodeError:
        body = {}
    mistakes = body.get("mistakes") or [body.get("error") or f"HTTP {response.status_code} from {response.url}"]
    text = "\n".join(str(mistake) for mistake in mistakes)
    return UserError(text) if response.status_code < 500 else Unavailable(text)
