"""Images made ready for the vision tower, each once, within a bound of memory."""

import threading
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from services.learner.attention.batch import ReadyImage
from shared.errors import BadSample
from shared.samples.images import decode_image

PIXEL_CACHE_BYTES = 1024 * 1024 * 1024
"""Processed pixels kept; what does not fit is processed again when a step needs it."""

COLOURS = 3


class PixelCache:
    """Decoded and processed images by digest, least recently used dropped first; safe to call from several threads.

    Processing happens when a group arrives; a step finds the pixels here, or makes them again from the encoded bytes
    if they were dropped, so that memory is bounded by `limit_bytes` and not by the groups that wait.
    """

    def __init__(
        self, processor: Any, *, min_pixels: int, max_pixels: int, limit_bytes: int = PIXEL_CACHE_BYTES
    ) -> None:
        self._processor = processor
        self._frames: int = processor.temporal_patch_size
        self._min_pixels = min_pixels
        self._max_pixels = max_pixels
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[str, tuple[Tensor, tuple[int, int, int]]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def grid(self, digest: str, data: bytes) -> tuple[int, int, int]:
        """(t, h, w) in patches of the image in `data`; raises BadSample when it cannot be decoded."""
        return self._get(digest, data)[1]

    def pixels(self, image: ReadyImage) -> Tensor:
        """float32 (patches, values a patch), as the model's image processor makes them."""
        return self._get(image.digest, image.data)[0].expand(-1, -1, self._frames, -1).flatten(1)

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def _get(self, digest: str, data: bytes) -> tuple[Tensor, tuple[int, int, int]]:
        with self._lock:
            if digest in self._held:
                self._held.move_to_end(digest)
                return self._held[digest]
        made = self._process(data)
        with self._lock:
            self._keep(digest, made)
        return made

    def _process(self, data: bytes) -> tuple[Tensor, tuple[int, int, int]]:
        image = decode_image(data, min_pixels=self._min_pixels, max_pixels=self._max_pixels)
        try:
            output = self._processor(images=[image], return_tensors="pt")
        except ValueError as error:
            raise BadSample(
                f"the {image.width}x{image.height} image is refused by the image processor: {error}"
            ) from error
        t, h, w = output["image_grid_thw"][0].tolist()
        return self._compact(output["pixel_values"].to(torch.float32)), (t, h, w)

    def _compact(self, values: Tensor) -> Tensor:
        """(patches, values a patch) as (patches, colours, frames, values), with one frame if all are equal.

        A still image is repeated to fill the tower's frames (Qwen2-VL's processor), which need not be kept.
        """
        frames = values.unflatten(1, (COLOURS, self._frames, -1))
        still = frames[:, :, :1]
        return still.contiguous() if torch.equal(still.expand_as(frames), frames) else frames

    def _keep(self, digest: str, made: tuple[Tensor, tuple[int, int, int]]) -> None:
        size = made[0].nbytes
        if digest in self._held or size > self._limit_bytes:
            return
        self._held[digest] = made
        self._bytes += size
        while self._bytes > self._limit_bytes:
            _, (dropped, _) = self._held.popitem(last=False)
            self._bytes -= dropped.nbytes
