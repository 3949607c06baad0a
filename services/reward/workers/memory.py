"""A worker's memory: what its libraries learn of each new formula is given back before it has grown large."""

import ctypes
import gc

import psutil

from services.reward.math.remembering import forget

MOST_LEARNED_BYTES = 4 * 1024 * 1024
"""What a worker may grow by before it forgets; learning it again takes it a tenth of a second.

Not more: what is remembered for long lies scattered over the heap, and little of it goes back when it is let go.
"""


class Learned:
    """What this process has grown by since it was made, and since it last forgot."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._limit = self._size() + MOST_LEARNED_BYTES

    def kept_small(self) -> int:
        """The bytes that the process holds, after it has forgotten what it had learned where that was too much."""
        size = self._size()
        if size > self._limit:
            forget()
            gc.collect()
            _give_back()
            size = self._size()
            self._limit = size + MOST_LEARNED_BYTES
        return size

    def _size(self) -> int:
        return int(self._process.memory_info().rss)


def _give_back() -> None:
    """Have glibc return to the system what is free; elsewhere the allocator does as it likes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
