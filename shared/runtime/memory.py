"""What glibc does with memory that was freed; where another allocator serves, nothing is done about it."""

import ctypes
from typing import Final

_MMAP_THRESHOLD: Final = -3  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
_TRIM_THRESHOLD: Final = -1
_LARGE_BYTES: Final = 4 * 1024 * 1024
_KEPT_BYTES: Final = 16 * 1024 * 1024
"""So much at the heap's end is kept for the next time: a batch of groups takes it and frees it again."""


def keep_large_blocks_apart() -> None:
    """Blocks of 4 MB and more get pages of their own, which go back to the system when they are freed.

    Else the first large block that is freed teaches glibc to cut all of its size, up to 32 MB, out of the heap, where
    what is allocated meanwhile keeps the holes that they leave from ever going back.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _LARGE_BYTES)
        set_option(_TRIM_THRESHOLD, _KEPT_BYTES)
