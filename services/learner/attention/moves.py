"""Rows of a tensor in another order, whose gradient comes back by reading alone.

The gradient of a plain `index_select` is added up row by row, since a row may have been read twice; on a CPU that takes
longer than most of what is computed of the rows. Where each is read once at most, the gradient is read from its places.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Move:
    """Row i of what is made is row `places[i]`; the gradient of row j is that of row `back[j]`, or 0 if `lost[j]`."""

    places: Tensor
    back: Tensor
    lost: Tensor | None
    is_nothing: bool
    """All rows stay where they are."""

    @classmethod
    def of(cls, places: Ints, rows: int, device: torch.device) -> "Move":
        """From `rows` rows to those at `places`, none twice; -1 stands for any row, and its gradient is dropped."""
        real = np.flatnonzero(places >= 0)
        back = np.full(rows, -1, np.int64)
        back[places[real]] = real
        lost = back < 0
        return cls(
            torch.from_numpy(places.clip(0)).to(device),
            torch.from_numpy(back.clip(0)).to(device),
            torch.from_numpy(lost).to(device) if lost.any() else None,
            len(places) == rows and bool(np.all(places == np.arange(rows))),
        )

    @property
    def reversed(self) -> "Move":
        """Of a move that leaves no row out: back to where all were."""
        return Move(self.back, self.places, None, self.is_nothing)

    def __call__(self, states: Tensor) -> Tensor:
        """(rows, …) to (places, …)."""
        if self.is_nothing:
            return states
        made: Tensor = _Moved.apply(states, self)
        return made


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, move: Move) -> Tensor:
        ctx.move = move
        return states.index_select(0, move.places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].index_select(0, ctx.move.back)
        lost = ctx.move.lost
        if lost is not None:
            gradient[lost] = 0.0
        return gradient, None
