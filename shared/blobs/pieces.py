"""Tensors of a safetensors file, piece by piece: memory is bounded by a few pieces, whatever the model's size.

Pieces are worked on in a pool and come back in the order of the file. What only looks at bits reads them in blocks that
stay in a core's cache in between.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import cycle
from typing import Any, TypeVar

import numpy as np
from blake3 import blake3

from shared.blobs.manifest import PIECE, TensorSpec

Read = Callable[[int, memoryview], None]
"""(offset, view): fill the view with a file's bytes from the offset on."""
Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4
"""Pieces in work or waiting for their turn."""
_SMALL_BYTES = 4 << 20
"""Tensors that are together smaller are worked on in place: handing pieces to threads would take longer."""
_BLOCK = 1 << 20
"""Bytes that are looked at at a time."""


@dataclass(frozen=True)
class Place:
    """Piece `number` of a tensor: where it lies in the file."""

    spec: TensorSpec
    number: int
    offset: int
    length: int
    end: int
    """Bytes of the tensor up to here."""

    @property
    def is_last(self) -> bool:
        return self.end == self.spec.nbytes


def places_of(specs: Iterable[TensorSpec], places: Mapping[str, int]) -> Iterator[Place]:
    """Every tensor's pieces; an empty tensor has one of no bytes."""
    for spec in specs:
        for number, begin in enumerate(range(0, max(1, spec.nbytes), PIECE)):
            end = min(begin + PIECE, spec.nbytes)
            yield Place(spec, number, places[spec.name] + begin, end - begin, end)


def buffers(specs: Iterable[TensorSpec]) -> Iterator[memoryview]:
    """Buffers that hold any piece; each is free again when its piece came out of `in_order`."""
    size = min(PIECE, max((spec.nbytes for spec in specs), default=0))
    return cycle([memoryview(bytearray(size)) for _ in range(_AHEAD)])


def in_order(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """`work` of every item in the pool, `_AHEAD` at a time, in the order of the items."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def blocks(read: Read, *, offset: int, length: int) -> Iterator[memoryview]:
    """A part of a file, block by block, each time in the same buffer; of no bytes one empty block."""
    buffer = np.empty(min(_BLOCK, length), dtype=np.uint8).data
    for begin in range(0, max(1, length), _BLOCK):
        block = buffer[: min(_BLOCK, length - begin)]
        read(offset + begin, block)
        yield block


def digests(specs: Sequence[TensorSpec], places: Mapping[str, int], read: Read, pool: Executor) -> dict[str, str]:
    """blake3 of every tensor's bits, by name."""
    found = worker(pool, specs).map(lambda spec: digest_of(read, places[spec.name], spec.nbytes), specs)
    return dict(zip((spec.name for spec in specs), found, strict=True))


def digest_of(read: Read, offset: int, length: int) -> str:
    """blake3 of a part of a file."""
    hasher = blake3()
    for block in blocks(read, offset=offset, length=length):
        hasher.update(block)
    return hasher.hexdigest()


def is_small(specs: Iterable[TensorSpec]) -> bool:
    """Whether threads are not worth it."""
    return sum(spec.nbytes for spec in specs) <= _SMALL_BYTES


def worker(pool: Executor, specs: Iterable[TensorSpec]) -> Executor:
    """The pool, or whoever calls where threads are not worth it."""
    return _InPlace() if is_small(specs) else pool


class _InPlace(Executor):
    """Work is done by whoever submits it."""

    def submit(self, work: Callable[..., Result], /, *arguments: Any, **options: Any) -> Future[Result]:
        done: Future[Result] = Future()
        done.set_result(work(*arguments, **options))
        return done
