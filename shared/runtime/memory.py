"""What glibc does with memory that was freed; where another allocator serves, nothing is done about it."""

import ctypes

_LARGE_BYTES = 1024 * 1024
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def keep_large_blocks_apart() -> None:
    """Blocks of 1 MB and more get pages of their own, which go back to the system when they are freed.

    Else the first large block that is freed teaches glibc to cut all of its size, up to 32 MB, out of the heap, where
    what is allocated meanwhile keeps the holes that they leave from ever going back.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _LARGE_BYTES)
