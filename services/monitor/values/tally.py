"""Columns of values added up by set of groups: each source, each task, and all groups together.

Sums are taken in the order of the groups: of the answers of a group first, then of a source's groups, then of sources.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.monitor.values.where import ALL, Where

Column = NDArray[Any]


class Tally:
    """Values by name, of N groups with A answers. A group lies in one of C cells: a source and a task."""

    def __init__(self, places: Sequence[Where], sizes: Column) -> None:
        """`places`: source and task of each group; `sizes` (N,): how many answers it has."""
        self._cells = {where: cell for cell, where in enumerate(dict.fromkeys(places))}
        self.num_cells, self.num_groups = len(self._cells), len(places)
        self.cell_of = np.array([self._cells[where] for where in places], np.int64)
        """(N,): where each group lies."""
        self.group_of = np.repeat(np.arange(len(places)), sizes)
        """(A,): the group of each answer."""
        self._ratios: dict[str, tuple[Column, Column]] = {}
        self._totals: dict[str, Column] = {}
        self._maxima: dict[str, Column] = {}

    def answers(self, name: str, values: Column, among: Column) -> None:
        """The mean of `values` (A,) over the answers that are `among` (A,) those asked for."""
        self.groups(name, self.by_group(np.where(among, values, 0.0)), self.by_group(among))

    def groups(self, name: str, parts: Column, wholes: Column | None = None) -> None:
        """Σ `parts` / Σ `wholes`, both (N,); without wholes the mean of `parts`."""
        self.ratio(name, self.by_cell(parts), self.by_cell(np.ones(len(parts)) if wholes is None else wholes))

    def ratio(self, name: str, parts: Column, wholes: Column) -> None:
        """Σ `parts` / Σ `wholes`, both (C,); a set whose whole is 0 has no value."""
        self._ratios[name] = parts, wholes

    def total(self, name: str, values: Column) -> None:
        """Σ `values` (C,); a set whose sum is 0 has no value."""
        self._totals[name] = values

    def maximum(self, name: str, values: Column) -> None:
        """The largest of `values` (N,)."""
        self._maxima[name] = np.full(self.num_cells, -np.inf)
        np.maximum.at(self._maxima[name], self.cell_of, values)

    def by_group(self, values: Column) -> Column:
        """Sums (N,) of `values` (A,)."""
        return np.bincount(self.group_of, values, self.num_groups)

    def by_cell(self, values: Column, groups: Column | None = None) -> Column:
        """Sums (C,) of `values`, one of each of `groups`; without them (N,)."""
        return np.bincount(self.cell_of if groups is None else self.cell_of[groups], values, self.num_cells)

    def centred(self, values: Column, among: Column) -> Column:
        """`values` (A,) less the mean of their group, taken over those `among`; 0 for all others."""
        means = self.by_group(np.where(among, values, 0.0)) / np.maximum(self.by_group(among), 1)
        return np.where(among, values - means[self.group_of], 0.0)

    def values(self) -> dict[Where, dict[str, float]]:
        """Every value of every set."""
        sets: dict[Where, list[int]] = {}
        for where, cell in self._cells.items():
            for wider in {Where(source=where.source), Where(task=where.task), ALL}:
                sets.setdefault(wider, []).append(cell)
        parts, wholes = (np.array(columns).T for columns in zip(*self._ratios.values(), strict=True))
        totals, maxima = (np.array(list(columns.values())).T for columns in (self._totals, self._maxima))

        def values_of(cells: list[int]) -> dict[str, float]:
            ratios = zip(self._ratios, parts[cells].sum(0).tolist(), wholes[cells].sum(0).tolist(), strict=True)
            sums = zip(self._totals, totals[cells].sum(0).tolist(), strict=True)
            return (
                {name: part / whole for name, part, whole in ratios if whole > 0}
                | {name: total for name, total in sums if total > 0}
                | dict(zip(self._maxima, maxima[cells].max(0).tolist() if self._maxima else (), strict=True))
            )

        return {where: values_of(cells) for where, cells in sets.items()}
