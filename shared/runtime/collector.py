"""Python's collector of cycles, kept off what lives long: with transformers imported a full collection walks a million
objects, for 0.4 s in which no other thread of the process runs Python.
"""

import contextlib
import gc
from collections.abc import Iterator

_NEW_OBJECTS = 10_000
"""So many new containers are looked at together (Python: 700): a lot of messages is one look, not twenty."""


def ignore_what_is_there() -> None:
    """At the start of a service: what it has imported is never looked at."""
    gc.set_threshold(_NEW_OBJECTS)
    gc.freeze()


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around what imports and builds what stays, such as a job's model; from several threads one after the other.

    What is dead is collected before and after; what is alive after is not looked at until the next `loading`.
    """
    gc.unfreeze()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()
