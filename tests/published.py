"""Weights in a blob store, as a learner puts them there."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from services.learner.engine import Layout
from services.learner.publishing.exports import FileSink
from shared.blobs.port import Blobs
from shared.blobs.store import BlobStore
from shared.blobs.weights import WeightsAt, WeightsStore
from shared.messages import BlobRef


class Tensors(dict[str, Tensor]):
    """A sink that keeps what an engine exports."""

    def begin(self, layout: Layout) -> None:
        """See `services.learner.engine.TensorSink`."""
        self.layout = layout
        self.update({name: torch.empty(0, dtype=dtype) for name, (dtype, _) in layout.items()})

    def put(self, name: str, tensor: Tensor) -> None:
        """See `services.learner.engine.TensorSink`."""
        joined = torch.cat([self[name].reshape(-1), tensor.reshape(-1)])
        _, shape = self.layout[name]
        self[name] = joined.reshape(shape) if joined.numel() == torch.Size(shape).numel() else joined


def publish(blobs: Blobs, folder: Path, version: int, tensors: Mapping[str, Tensor]) -> BlobRef:
    """The manifest of `tensors` as an anchor; `folder` is the learner's own."""
    store = WeightsStore(blobs, folder)
    snapshot = store.snapshot()
    sink = FileSink(snapshot)
    sink.begin({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        sink.put(name, tensor.contiguous())
    snapshot.finish()
    published = store.publish(snapshot, version=version, frozen=None, base=None, anchor=True)
    snapshot.discard()
    published.at.close()
    return published.at.ref


def weights_at(folder: Path, version: int, tensors: Mapping[str, Tensor]) -> WeightsAt:
    """`tensors` as an engine is given them, all of them changed."""
    blobs = BlobStore((folder / "blobs").as_uri())
    return WeightsStore(blobs, folder / "replica").materialise(publish(blobs, folder / "learner", version, tensors))
