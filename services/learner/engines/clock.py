"""How long the parts of a step take."""

import time
from collections import defaultdict
from collections.abc import Sequence

import torch


class Clock:
    """Takes the seconds of a `with` block: on CUDA by events in its stream, which nothing waits for until the end."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._cuda = device.type == "cuda"
        self._marks: list[torch.cuda.Event] = []
        self._times: list[float] = []

    def __enter__(self) -> None:
        self._mark()

    def __exit__(self, *_: object) -> None:
        self._mark()

    def _mark(self) -> None:
        if self._cuda:
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record()
        else:
            self._times.append(time.perf_counter())

    def elapsed_s(self) -> float:
        if self._cuda:
            start, end = self._marks
            end.synchronize()
            return start.elapsed_time(end) / 1e3
        return self._times[1] - self._times[0]


def seconds(clocks: Sequence[Clock]) -> dict[str, float]:
    """Seconds by name."""
    found: defaultdict[str, float] = defaultdict(float)
    for clock in clocks:
        found[clock.name] += clock.elapsed_s()
    return dict(found)
