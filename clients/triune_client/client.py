"""The client: single calls from any thread or event loop, sent together as batches of `POST /v1/score`."""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import httpx

BATCH = 256
SENDERS = 4
_URL, _TOKEN = "TRIUNE_REWARD_URL", "TRIUNE_REWARD_TOKEN"
_DEFAULT_URL = "http://127.0.0.1:8192"
_LONGEST_PAUSE_S = 10.0


class RewardError(Exception):
    """There is no reward."""


class Unscorable(RewardError):
    """This sample cannot be scored, and never will be: wrong ground truth or parameters, or a verifier that failed."""


class Unreachable(RewardError):
    """No server answered in time; the sample may be asked for again."""


@dataclass(frozen=True)
class Reward:
    """A verdict: `final` is the weighted mean of `accuracy` and `format`, all from 0 to 1."""

    final: float
    accuracy: float
    format: float
    parts: Mapping[str, float] = field(default_factory=dict)


class Client:
    """Asks the servers at `urls` in turn; `patience_s` is how long a call waits while none of them can answer."""

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: str | None = None,
        deadline_s: float = 10.0,
        patience_s: float = 180.0,
    ) -> None:
        given = urls.split(",") if isinstance(urls, str) else urls
        self._urls = itertools.cycle([url.strip().rstrip("/") for url in given if url.strip()])
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._deadline_s, self._patience_s = deadline_s, patience_s
        self._waiting: queue.SimpleQueue[tuple[dict[str, Any], Future[Reward]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._senders: list[threading.Thread] = []
        self._process = os.getpid()

    def submit(self, sample: Mapping[str, Any]) -> Future[Reward]:
        """The reward of a sample (a row of `/v1/score`) to come; it ends with Unscorable or Unreachable."""
        self._start()
        future: Future[Reward] = Future()
        self._waiting.put((dict(sample), future))
        return future

    def score(self, sample: Mapping[str, Any], limit_s: float | None = None) -> Reward:
        """The reward of a sample; raises Unscorable, and Unreachable: after `limit_s`, where it is given."""
        try:
            return self.submit(sample).result(limit_s)
        except FutureTimeout:
            raise Unreachable(f"no reward within {limit_s:g} s") from None

    async def scores_async(self, samples: Sequence[Mapping[str, Any]]) -> list[Reward]:
        """The rewards of samples in an event loop; raises Unscorable when one cannot be scored, and Unreachable."""
        return list(await asyncio.gather(*map(asyncio.wrap_future, [self.submit(sample) for sample in samples])))

    async def score_async(self, sample: Mapping[str, Any]) -> Reward:
        """The same in an event loop."""
        return await asyncio.wrap_future(self.submit(sample))

    def finals(self, samples: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """One final reward a sample, None for those that cannot be scored; raises Unreachable."""
        return [_final(future) for future in [self.submit(sample) for sample in samples]]

    async def finals_async(self, samples: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """The same in an event loop."""
        futures = [self.submit(sample) for sample in samples]
        await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        return [_final(future) for future in futures]

    def _start(self) -> None:
        with self._lock:
            if self._process != os.getpid():  # forked: threads did not come along
                self._process, self._senders, self._waiting = os.getpid(), [], queue.SimpleQueue()
            if not self._senders:
                self._senders = [threading.Thread(target=self._send, daemon=True) for _ in range(SENDERS)]
                for sender in self._senders:
                    sender.start()

    def _send(self) -> None:
        with httpx.Client(headers=self._headers, timeout=None) as http:
            while True:
                batch = [self._waiting.get()]
                while len(batch) < BATCH and not self._waiting.empty():
                    try:
                        batch.append(self._waiting.get_nowait())
                    except queue.Empty:
                        break
                self._settle(http, batch)

    def _settle(self, http: httpx.Client, batch: list[tuple[dict[str, Any], Future[Reward]]]) -> None:
        """Ask until every sample of `batch` has a verdict, or patience ends."""
        ends, pause = time.monotonic() + self._patience_s, 0.1
        while batch:
            try:
                batch, reason = self._ask(http, batch)
            except RewardError as error:
                for _, future in batch:
                    future.set_exception(error)
                return
            except Exception as error:  # noqa: BLE001 — a sender must live on: what it cannot send is the call's error
                for _, future in batch:
                    future.set_exception(RewardError(f"the batch cannot be sent: {error!r}"))
                return
            if batch and time.monotonic() + pause > ends:
                for _, future in batch:
                    future.set_exception(Unreachable(reason))
                return
            if batch:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _ask(
        self, http: httpx.Client, batch: list[tuple[dict[str, Any], Future[Reward]]]
    ) -> tuple[list[tuple[dict[str, Any], Future[Reward]]], str]:
        """Settle what has a verdict; returns the rest, to be asked for again, and why. Raises RewardError."""
        url = next(self._urls)
        body = {"samples": [sample for sample, _ in batch], "deadline_s": self._deadline_s}
        timeout = 30.0 + self._deadline_s * len(batch)
        try:
            response = http.post(f"{url}/v1/score", json=body, timeout=timeout)
        except httpx.TransportError as error:
            return batch, f"{url} does not answer: {error!r}"
        if response.status_code in (429, 502, 503, 504):
            return batch, f"{url} answers {response.status_code}: {response.text[:200]}"
        if response.status_code != 200:
            if len(batch) == 1 or response.status_code == 401:
                raise RewardError(f"{url} answers {response.status_code}: {response.text[:500]}")
            for one in batch:  # one wrong sample must not spoil the others
                self._settle(http, [one])
            return [], ""
        again = []
        for (sample, future), result in zip(batch, response.json()["results"], strict=True):
            if result["status"] == "ok":
                future.set_result(Reward(result["final"], result["accuracy"], result["format"], result["parts"]))
            elif result["status"] == "verifier-error":
                future.set_exception(Unscorable(result["error"]))
            else:
                again.append((sample, future))
        return again, f"{url} has no workers"


def _final(future: Future[Reward]) -> float | None:
    try:
        return future.result().final
    except Unscorable:
        return None


def default_client() -> Client:
    """The client of TRIUNE_REWARD_URL and TRIUNE_REWARD_TOKEN, one a process."""
    return client_of(os.environ.get(_URL, _DEFAULT_URL), os.environ.get(_TOKEN))


@lru_cache(maxsize=16)
def client_of(urls: str, token: str | None = None) -> Client:
    """The one client of these servers in this process."""
    return Client(urls, token=token)
