"""What a frozen tower hands on to a connector that is trained, kept for the other passes of a step.

The layers of the tower are most of its work and cannot change; the connector behind them does, with every update. So
the layers that something outside of them reads (the last one, and those of DeepStack) are kept, and the model's own
code runs over them again: it differs from family to family, and stays theirs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shared.models.roles import role_of

Features = Callable[[], Sequence[Tensor]]
"""Runs the tower and what comes after it."""


class KeptTower:
    """Outputs of a tower's layers by the images that they are of; nothing of it has a gradient."""

    def __init__(self, layers: Sequence[nn.Module], features: Features) -> None:
        """`features` runs the tower over some image: so it is found which layers are read."""
        self.limit_bytes = 0
        """What may be kept at a time; 0: nothing is."""
        self._kept: dict[tuple[str, ...], dict[int, Tensor]] = {}
        self._replayed: dict[int, Tensor] | None = None
        self._recorded: dict[int, Tensor] | None = None
        for index, layer in enumerate(layers):
            layer.forward = self._around(index, layer.forward)
        self._read = frozenset(range(len(layers)))
        self._read = self._those_read(features)

    @classmethod
    def over(cls, model: nn.Module, features: Features) -> "KeptTower":
        """Over the vision layers of a transformers model."""
        lists = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and role_of(name) == "vit"
        ]
        return cls(list(max(lists, key=lambda layers: len(list(layers)))), features)

    @contextmanager
    def of(self, images: tuple[str, ...]) -> Iterator[None]:
        """Inside, the tower runs over `images`: from what is kept of them, or in full, to be kept within the limit."""
        self._replayed = self._kept.get(images)
        self._recorded = {} if self._replayed is None and self.limit_bytes else None
        try:
            yield
        finally:
            made, self._replayed, self._recorded = self._recorded, None, None
        if made and self.kept_bytes + _size(made) <= self.limit_bytes:
            self._kept[images] = made

    @property
    def kept_bytes(self) -> int:
        return sum(map(_size, self._kept.values()))

    def forget(self) -> None:
        """Let go of all that is kept."""
        self._kept.clear()

    def _around(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            if self._replayed is not None:  # what is not read only has to be there
                return self._replayed.get(index, next(iter(self._replayed.values())))
            output = forward(*arguments, **named)
            if self._recorded is not None and index in self._read:
                self._recorded[index] = output
            return output

        return run

    @torch.no_grad()
    def _those_read(self, features: Features) -> frozenset[int]:
        """Layers whose output, when it is not a number while all others are what they were, is seen behind them."""
        self._recorded = {}
        features()
        whole, self._recorded = self._recorded, None
        found = set()
        for index, output in whole.items():
            self._replayed = whole | {index: torch.full_like(output, torch.nan)}
            if any(bool(torch.isnan(made).any()) for made in features()):
                found.add(index)
        self._replayed = None
        return frozenset(found)


def _size(made: dict[int, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in made.values())
