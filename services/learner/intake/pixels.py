"""Images made ready for the vision tower, each once, within a bound of memory, and ahead of when a step needs them."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from services.learner.attention.batch import ReadyImage
from shared.models.family import PreparedImage
from shared.models.inputs import Inputs

WORKERS = 2
"""Threads that prepare images ahead; decoding and scaling run outside of Python's lock."""


class PixelCache:
    """Decoded and processed images by name, least recently used dropped first; safe to call from several threads.

    Processing happens when a group arrives; a step finds the pixels here. Those that were dropped are made again from
    the encoded bytes, beside the micro-batch before (`ahead`), so that memory is bounded by `limit_bytes` and not by
    the groups that wait, and the step still does not.
    """

    def __init__(self, inputs: Inputs, *, limit_bytes: int) -> None:
        self.inputs = inputs
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[str, PreparedImage] = OrderedDict()
        self._coming: dict[str, Future[PreparedImage]] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(WORKERS, "pixels")

    def get(self, image: ReadyImage) -> PreparedImage:
        """`image` as its family's tower takes it; raises BadSample when it cannot be decoded or is refused."""
        with self._lock:
            coming = self._coming.pop(image.name, None)
            if image.name in self._held:
                self._held.move_to_end(image.name)
                return self._held[image.name]
        return self._make(image) if coming is None else coming.result()

    def ahead(self, images: Iterable[ReadyImage]) -> None:
        """Begin to prepare what is not held; each of `images` has to be asked for soon: until then it stays."""
        with self._lock:
            for image in images:
                if image.name not in self._held and image.name not in self._coming:
                    self._coming[image.name] = self._pool.submit(self._make, image)

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def _make(self, image: ReadyImage) -> PreparedImage:
        made = self.inputs.image(image.data, alone=image.alone)
        with self._lock:
            self._keep(image.name, made)
        return made

    def _keep(self, name: str, made: PreparedImage) -> None:
        size = made.nbytes
        if name in self._held or size > self._limit_bytes:
            return
        self._held[name] = made
        self._bytes += size
        while self._bytes > self._limit_bytes:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= dropped.nbytes
