"""A monitor that is served for real, in a thread of its own."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from shared.bus.memory.server import MemoryServer
from shared.runtime.http import serve_http
from tests.monitor.stage import Stage, running

LIMIT_S = 60.0
Result = TypeVar("Result")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Theatre:
    """A monitor that is served for real, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stage: Stage
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = free_port()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    def open(self) -> None:
        self._thread.start()
        self._ready = threading.Event()
        self._done = asyncio.run_coroutine_threadsafe(self._play(), self._loop)
        assert self._ready.wait(LIMIT_S)

    async def _play(self) -> None:
        self._stop = asyncio.Event()
        async with running(Stage(self.folder, MemoryServer())) as self.stage:
            serving = asyncio.ensure_future(serve_http(self.stage.monitor.api, "127.0.0.1", self.port))
            self._ready.set()
            await self._stop.wait()
            serving.cancel()
            await asyncio.wait({serving})

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._done.result(LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()


@contextlib.contextmanager
def theatre_in(folder: Path) -> Iterator[Theatre]:
    theatre = Theatre(folder)
    theatre.open()
    try:
        yield theatre
    finally:
        theatre.close()
