"""The processes that train one model together, as an engine on one of them sees it.

Rank 0 alone talks to the bus. What goes between ranks is bytes of msgpack and tensors, never pickles.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from shared.errors import TriuneError


class Team(Protocol):
    """`rank` of `world` processes. Every method is called on all of them, in the same order."""

    rank: int
    world: int

    def reduce(
        self, sums: Mapping[str, Tensor], maxima: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Scalars added up, and the largest of scalars, over all ranks; the same names on each of them."""
        ...

    def agree(self, error: TriuneError | None) -> None:
        """Raise on every rank the error of the first rank that has one; called outside of other collectives."""
        ...


class Alone:
    """A team of one, without any communication."""

    rank = 0
    world = 1

    def reduce(
        self, sums: Mapping[str, Tensor], maxima: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """See `Team.reduce`; one copy from the device for all of them."""
        return numbers(sums), numbers(maxima)

    def agree(self, error: TriuneError | None) -> None:
        """See `Team.agree`."""
        if error is not None:
            raise error


def numbers(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers, with one wait for the device."""
    if not scalars:
        return {}
    values: Sequence[float] = torch.stack([value.double() for value in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))
