"""What is known of every replica, from its heartbeats."""

import time
from collections.abc import Callable
from typing import Any

from shared.messages import Heartbeat


class Replicas:
    """The last heartbeat of each replica; one that is silent for long is forgotten."""

    def __init__(self, silent_s: float, forget_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._silent_s, self._forget_s, self._clock = silent_s, forget_s, clock
        self._heard: dict[tuple[str, str], tuple[Heartbeat, float]] = {}

    def on_heartbeat(self, heartbeat: Heartbeat) -> None:
        self._heard[heartbeat.service, heartbeat.replica] = heartbeat, self._clock()

    def show(self) -> list[dict[str, Any]]:
        """One entry a replica, by service and name; `alive` is false after `silent_s` without a heartbeat."""
        now = self._clock()
        self._heard = {key: item for key, item in self._heard.items() if now - item[1] < self._forget_s}
        return [
            {
                "service": service,
                "replica": replica,
                "pid": heartbeat.pid,
                "state": heartbeat.state,
                "version": heartbeat.version if heartbeat.version >= 0 else None,
                "in_flight": heartbeat.in_flight,
                "heard_s_ago": round(now - at, 3),
                "alive": now - at < self._silent_s,
            }
            for (service, replica), (heartbeat, at) in sorted(self._heard.items())
        ]

    def alive(self) -> list[Heartbeat]:
        """The last heartbeats of replicas that are not silent."""
        now = self._clock()
        return [heartbeat for heartbeat, at in self._heard.values() if now - at < self._silent_s]
