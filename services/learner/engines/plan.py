"""What a rank computes in each update of a step, in which micro-batches, and what weighs their tokens."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch

from services.learner.algorithms.objective import acts_on_uniform
from services.learner.algorithms.registry import find
from services.learner.algorithms.tokens import Totals
from services.learner.attention.batch import Part, Ready, mini_batches
from services.learner.engines.share import Cost, MicroBatch, share
from services.learner.engines.team import Team
from shared.jobs.spec import JobSpec


@dataclass(frozen=True, eq=False)
class Update:
    """One optimizer update: this rank's micro-batches, what weighs their tokens, response tokens of all ranks.

    The gradient is divided by `divisor`: 1, unless portions were added before the totals were known.
    """

    batches: Sequence[MicroBatch]
    totals: Totals
    num_tokens: int
    divisor: float = 1.0


class Plan:
    """How one rank of `team` divides the groups of a step; every rank has equally many micro-batches."""

    def __init__(self, spec: JobSpec, cost: Cost, team: Team) -> None:
        self._spec, self._cost, self._team = spec, cost, team
        self.undivided = Totals(1, 1, spec.sampling.max_new_tokens)
        """What weighs the tokens of a portion: how many the whole step has is known with its last group."""

    def portion(self, groups: Sequence[Ready]) -> dict[int, Ready]:
        """Those of a portion's groups that are computed, by ordinal."""
        return {group.ordinal: group for group in groups if group.responses and self._is_computed(group)}

    def updates(self, groups: Sequence[Ready], done: Container[int], *, has_portions: bool) -> list[Update]:
        """The updates of a step of `groups`; `done`: ordinals that were computed in portions."""
        answered = [group for group in groups if group.responses]
        return [
            self._update(own, done, has_portions)
            for own in mini_batches(answered, self._spec.algorithm.updates_per_step)
        ]

    def _update(self, groups: Sequence[Ready], done: Container[int], has_portions: bool) -> Update:
        computed = [group for group in groups if self._is_computed(group)] or groups[:1]
        rest = [group for group in computed if group.ordinal not in done]
        batches = self.share(rest) if rest else [[filler(groups[0])]]
        tokens = sum(group.num_response_tokens for group in groups)
        sequences = sum(len(group.responses) for group in groups)
        totals = Totals(tokens, sequences, self._spec.sampling.max_new_tokens)
        if not has_portions:
            return Update(batches, totals, tokens)
        return Update(batches, self.undivided, tokens, self._divisor(totals))

    def share(self, groups: Sequence[Ready]) -> Sequence[MicroBatch]:
        """This rank's micro-batches of them."""
        return share(groups, self._team.world, self._spec.learner.tokens_per_batch, self._cost)[self._team.rank]

    def _is_computed(self, group: Ready) -> bool:
        """A uniform group's advantages are 0: it is computed for another term of the loss, or to be measured."""
        return not group.uniform or acts_on_uniform(self._spec) or self._spec.learner.measure_uniform

    def _divisor(self, totals: Totals) -> float:
        """What a sum of undivided gradients is divided by to be the gradient of an average over `totals`."""
        weights, length = find("aggregations", self._spec.algorithm.aggregation), torch.ones(1, dtype=torch.int64)
        return float(weights(length, self.undivided) / weights(length, totals))


def filler(group: Ready) -> Part:
    """A pass over a group that counts nothing."""
    return Part(group, group.responses[:1], is_filler=True)
