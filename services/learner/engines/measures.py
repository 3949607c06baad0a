"""What a training step measures of the tokens that it computes: sums that stay on the device until the step ends."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from services.learner.algorithms.objective import mismatch
from services.learner.attention.batch import Packed
from services.learner.engines.team import Team


class Measures:
    """Sums of one rank over the micro-batches of a step; a filler counts nothing in them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._largest = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Scalars by name."""
        for name, value in sums.items():
            value = value.detach().to(self._device, torch.float64, non_blocking=True)
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def add_tokens(self, packed: Packed, sums: Mapping[str, Tensor], log_probs: Tensor, rollout: Tensor) -> None:
        """A micro-batch's `sums`, and how far sampler and learner are apart on its tokens, in all and by source."""
        share_of = 0.0 if packed.parts[0].is_filler else 1.0
        apart = mismatch(log_probs, rollout)
        self._largest = torch.maximum(self._largest, share_of * apart["mismatch_abs"].max().double())
        counts = [sum(len(row.token_ids) for row in part.responses) for part in packed.parts]
        found = {**sums, **{name: values.sum() for name, values in apart.items()}}
        found["measured"] = torch.tensor(float(sum(counts)))
        of_part = [part.group.scored.prompt.source for part in packed.parts]
        sources = sorted(set(of_part))
        number = np.repeat([sources.index(source) for source in of_part], counts)
        by_source = torch.zeros(len(sources), device=log_probs.device)
        by_source.index_add_(0, torch.from_numpy(number).to(log_probs.device), apart["mismatch_k3"].float())
        for source, k3, count in zip(sources, by_source, np.bincount(number), strict=True):
            found |= {f"mismatch_k3/{source}": k3, f"measured/{source}": torch.tensor(float(count))}
        self.add({name: share_of * value for name, value in found.items()})

    def divide_loss(self, divisor: float) -> None:
        """The `loss` that was added so far is a sum to be divided."""
        if divisor != 1.0 and "loss" in self._sums:
            self._sums["loss"] = self._sums["loss"] / divisor

    def metrics(self, team: Team, sources: Iterable[str], updates: int) -> dict[str, float]:
        """Means over the measured response tokens of all ranks, the mean loss of the updates, the largest mismatch.

        `sources`: of all groups of the step, so that every rank names the same sums.
        """
        zero = torch.zeros((), dtype=torch.float64, device=self._device)
        every = {name: zero for source in sources for name in (f"mismatch_k3/{source}", f"measured/{source}")}
        sums, maxima = team.reduce(every | self._sums, {"mismatch_max": self._largest})
        measured, loss = sums.pop("measured", 0.0), sums.pop("loss", 0.0)
        counts = {name: sums.pop(name) for name in list(sums) if name.startswith("measured/")}
        counts["teacher_kl"] = sums.get("teacher_known", 0.0)
        means = {
            name: value / count
            for name, value in sums.items()
            if (count := counts.get(name.replace("mismatch_k3/", "measured/"), measured))
        }
        return means | maxima | {"loss": loss / max(1, updates), "measured_tokens": measured}


def finite_means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means by name over finite values; a name without any is left out (the norms of a skipped update)."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            if math.isfinite(value):
                values[name].append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}
