"""Images made ready for the vision tower, each once, within a bound of memory."""

import threading
from collections import OrderedDict

from services.learner.attention.batch import ReadyImage
from shared.models.family import PreparedImage
from shared.models.inputs import Inputs

PIXEL_CACHE_BYTES = 1024 * 1024 * 1024
"""Processed pixels kept; what does not fit is processed again when a step needs it."""


class PixelCache:
    """Decoded and processed images by name, least recently used dropped first; safe to call from several threads.

    Processing happens when a group arrives; a step finds the pixels here, or makes them again from the encoded bytes
    if they were dropped, so that memory is bounded by `limit_bytes` and not by the groups that wait.
    """

    def __init__(self, inputs: Inputs, *, limit_bytes: int = PIXEL_CACHE_BYTES) -> None:
        self.inputs = inputs
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[str, PreparedImage] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, image: ReadyImage) -> PreparedImage:
        """`image` as its family's tower takes it; raises BadSample when it cannot be decoded or is refused."""
        with self._lock:
            if image.name in self._held:
                self._held.move_to_end(image.name)
                return self._held[image.name]
        made = self.inputs.image(image.data, alone=image.alone)
        with self._lock:
            self._keep(image.name, made)
        return made

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def _keep(self, name: str, made: PreparedImage) -> None:
        size = made.nbytes
        if name in self._held or size > self._limit_bytes:
            return
        self._held[name] = made
        self._bytes += size
        while self._bytes > self._limit_bytes:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= dropped.nbytes
