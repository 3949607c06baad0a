"""Giving a job's series to its sinks: each sink has a thread of its own, and nobody waits for one that is away.

What a sink has is read of the store. Its place is remembered there, so that a monitor that begins anew goes on.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from services.monitor.config import MonitorConfig
from services.monitor.exports.sinks import KINDS, Sink
from services.monitor.history.queries import reading
from services.monitor.values.catalog import v_triune_name
from services.monitor.values.where import Where
from shared.runtime.logging import get_logger

STEPS_AT_ONCE = 200


class Feed:
    """One sink of one job. Its thread is a daemon: a library that hangs holds up no end of the process."""

    def __init__(self, folder: Path, job: str, name: str, config: MonitorConfig) -> None:
        self._folder, self._job, self.name, self._config = folder, job, name, config
        self._step, self._version = f"sinks.{name}.step", f"sinks.{name}.version"
        self.fed: Mapping[str, str] = {}  # facts for the store: the last step and the last evaluated version it got
        self.has_all = False
        self.ended: Future[None] = Future()
        self.ended.set_running_or_notify_cancel()  # who waits for it may not cancel it
        self._ending, self._left = threading.Event(), threading.Event()
        self._sink: Sink | None = None
        self._works = True
        self._log = get_logger(job=job, sink=name)
        threading.Thread(target=self._run, name=f"sink-{name}-{job}", daemon=True).start()

    @property
    def last_step(self) -> int:
        """The last training step that the sink is known to have."""
        return int(self.fed.get(self._step, 0))

    def end(self) -> None:
        """Give it all that the store has now, once, and close it."""
        self._ending.set()

    def leave(self) -> None:
        """Close it as soon as it lets us."""
        self._left.set()
        self._ending.set()

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                works = self._try(self._feed)
                self._ending.wait(self._config.feed_s if works else self._config.feed_again_s)
            was_fed = not self._left.is_set() and self._try(self._feed)
            self.has_all = self._try(self._close) and was_fed
        finally:
            self.ended.set_result(None)

    def _try(self, work: Callable[[], None]) -> bool:
        """Whether `work` was done. A sink that fails is closed, and opened anew the next time."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 — a sink is anybody's code, and the record goes on without it
            if self._works:
                self._log.warning("a sink cannot be fed; tried again", error=f"{type(error).__name__}: {error}")
            self._works = False
            with contextlib.suppress(Exception):
                self._close()
            return False
        if not self._works and self._sink is not None:
            self._works = True
            self._log.info("a sink is fed again")
        return True

    def _feed(self) -> None:
        if self._sink is None:
            self._sink = KINDS[self.name](self._folder, self._job)
        while not self._left.is_set() and (fed := self._feed_some(self._sink)):
            self.fed = {**self.fed, **fed}

    def _feed_some(self, sink: Sink) -> dict[str, str]:
        fed: dict[str, str] = {}
        for fact, step, at, values in self._new():
            sink.write(step, at, values)
            fed[fact] = str(step)
        if fed:
            sink.flush()
        return fed

    def _new(self) -> Iterator[tuple[str, int, float, dict[str, float]]]:
        with reading(self._folder) as reader:
            if reader is None:
                return
            last = [int(self.fed.get(fact) or reader.meta(fact) or -1) for fact in (self._step, self._version)]
            for step in reader.steps(last[0], STEPS_AT_ONCE):
                points = reader.step_points(step["step"], evaluated=False)
                yield self._step, step["step"], step["finished_at"], _named(points)
            for done in reader.evaluations():
                if done["version"] > last[1]:
                    points = reader.step_points(done["version"], evaluated=True)
                    yield self._version, done["version"], done["finished_at"], _named(points)

    def _close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()


class Feeds:
    """All sinks of one job; with none of them, nothing happens."""

    def __init__(self, folder: Path, job: str, names: Sequence[str], config: MonitorConfig) -> None:
        self._feeds = [Feed(folder, job, name, config) for name in names]
        self._log = get_logger(job=job)
        self.is_ending = False

    @property
    def fed(self) -> dict[str, str]:
        """How far each sink got, as facts for the store."""
        return {fact: value for feed in self._feeds for fact, value in feed.fed.items()}

    def end(self) -> None:
        """The store has all of the job: give it to the sinks, and close them."""
        self.is_ending = True
        for feed in self._feeds:
            feed.end()

    async def ended(self, limit_s: float) -> None:
        """Wait for them after `end`, for `limit_s` at most, and say which of them did not get all."""
        await self._wait(limit_s)
        for feed in self._feeds:
            if not feed.has_all:
                self._log.error("a sink did not get the whole job", sink=feed.name, last_step=feed.last_step)
                feed.leave()

    async def leave(self, limit_s: float) -> None:
        """Close them where they are, and wait `limit_s` for it at most."""
        self.is_ending = True
        for feed in self._feeds:
            feed.leave()
        await self._wait(limit_s)

    async def _wait(self, limit_s: float) -> None:
        ends = [asyncio.wrap_future(feed.ended) for feed in self._feeds]
        try:
            if ends:
                await asyncio.wait(ends, timeout=limit_s)
        finally:
            for end in ends:
                end.cancel()  # ours alone: the loop may be closed when the thread ends


def _named(points: Sequence[tuple[str, Where, float]]) -> dict[str, float]:
    return {v_triune_name(name, where): value for name, where, value in points}
