"""Looking at the queues and the replicas every few seconds: what no message tells."""

import asyncio
import contextlib
import time
from collections import Counter

from services.monitor.api.replicas import Replicas
from services.monitor.control import Control
from services.monitor.handlers import Desk
from shared.bus.port import WORK_STREAMS
from shared.errors import Corrupt, Unavailable
from shared.ledger.port import Ledger


class Sampler:
    """Notes queue depths and groups in flight of the active job, and shows which replicas are alive.

    The gauges are set at every look; the run's history gets what has changed.
    """

    def __init__(self, desk: Desk, control: Control, replicas: Replicas, ledger: Ledger) -> None:
        self._desk, self._control, self._replicas, self._ledger = desk, control, replicas, ledger
        self._services: set[str] = set()
        self._stuck_since: float | None = None
        self._depths: dict[str, int] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._desk.config.sample_s)
            with contextlib.suppress(Unavailable, Corrupt):  # the reading of the job tells it; the next look is soon
                await self.look()

    async def look(self) -> None:
        """Once."""
        self._show_replicas()
        active = self._control.active
        reading = self._control.reading_of(active.id) if active else None
        if active is None or reading is None:
            self._stuck_since = None
            return
        depths = {
            stream: sum(await self._desk.bus.waiting(stream, active.id, "train"))
            + sum(await self._desk.bus.waiting(stream, active.id, "eval"))
            for stream in WORK_STREAMS
        }
        view = await self._ledger.view(active.id)
        values = {f"queue/{stream}": float(depth) for stream, depth in depths.items()}
        values["in_flight"] = float(view.in_flight)
        if view.window is not None and view.loaded:
            behind = [view.window.version - version for version in view.loaded.values()]
            values["staleness_in_flight"] = max(0.0, sum(behind) / len(behind))
        await reading.note(values)
        self._desk.metrics.show_queues(depths, view.in_flight, self._stuck_s(depths))

    def _stuck_s(self, depths: dict[str, int]) -> float:
        """How long there has been work in the queues without a change of their depths."""
        moved = depths != self._depths or not any(depths.values())
        self._depths = depths
        if moved or self._stuck_since is None:
            self._stuck_since = time.monotonic()
        return time.monotonic() - self._stuck_since

    def _show_replicas(self) -> None:
        alive = self._replicas.alive()
        counts = Counter(heartbeat.service for heartbeat in alive)
        self._services |= counts.keys()
        versions = [heartbeat.version for heartbeat in alive if heartbeat.service == "rollout"]
        newest = max((heartbeat.version for heartbeat in alive), default=-1)
        lag = newest - min(versions) if versions else 0
        self._desk.metrics.show_replicas({name: counts[name] for name in self._services}, lag)
