"""`algorithm.order = "arrival"`: a step is made of the groups that have come first, within the bound on staleness.

No step waits for a long answer while B shorter ones are there; so short answers are trained on earlier than long ones,
which `early` counts. The order is no longer that of the ordinals, and a replay repeats only what was told.

A window that version m opens admits groups that must be trained on weights m + η at the latest. With N of them open
before the step on weights v, and B to each of the steps that are left, all of them can be in time exactly when

    N ≤ (m + η − v + 1) · B

which holds when the window opens, since it admits (η + 1) · B open groups (`shared.staleness`, with the groups that
were trained ahead of the cursor among those that widen it). A step keeps it for the next one by taking at least
N − (m + η − v) · B of them: those go first, and the step waits for them where they have not come.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from services.learner.attention.batch import Ready
from services.learner.steps.assembler import Assembler, Group, Lost, Step


@dataclass
class ByArrival(Assembler[Group]):
    """See `Assembler`; `_ready`, `_uniform` and `_lost` are in the order of arrival."""

    def admit(self, end: int, due: int) -> None:
        windows = self.progress.windows
        if end > max((known for known, _ in windows), default=self.cursor):
            self.progress.windows = [*(window for window in windows if window[1] != due), (end, due)]

    def lost(self, end: int | None = None) -> int:
        """Ordinals at or past the cursor that no later step will train on: lost, or trained on before their turn."""
        return self._lost_below(end) + len(self._passed_over) + len(self.progress.ahead)

    @property
    def _passed_over(self) -> dict[int, Lost]:
        """The uniform groups that the next step filters: the first that have come, as many as it may."""
        return {ordinal: self._uniform[ordinal] for ordinal in list(self._uniform)[: self.filter_cap]}

    def _assemble(self) -> Step[Group] | None:
        lost = self._lost | self._passed_over
        free = [ordinal for ordinal in self._ready if ordinal not in lost]
        taken = self._urgent(free, lost)
        if taken is None:
            return None
        rest = [ordinal for ordinal in free if ordinal not in taken]
        taken |= set(rest[: self.prompts_per_step - len(taken)])
        if len(taken) < self.prompts_per_step and not self._has_all(lost):
            return None
        step = Step({ordinal: self._ready[ordinal] for ordinal in sorted(taken)}, lost)
        return step if step.ordinals else None

    def _urgent(self, free: list[int], lost: Mapping[int, Lost]) -> set[int] | None:
        """The groups that this step must take, by the window that admitted them; None: some have not come."""
        taken = set[int]()
        for end, due in self.progress.windows:
            left = (ordinal for ordinal in range(self.cursor, end) if ordinal not in lost)
            count = sum(not self.is_consumed(ordinal) for ordinal in left)
            needed = count - max(0, due - self.progress.step) * self.prompts_per_step
            needed -= sum(ordinal < end for ordinal in taken)
            found = [ordinal for ordinal in free if ordinal < end and ordinal not in taken][: max(0, needed)]
            if len(found) < needed and not self._has_all(lost):
                return None
            taken |= set(found)
        return taken

    def certain(self) -> dict[int, Group]:
        """None: a group that must be trained on may yet take the place of any."""
        return {}

    def _has_all(self, lost: Mapping[int, Lost]) -> bool:
        """Whether every group of the order has come: its last step may be short."""
        return self.end is not None and all(
            ordinal in self._ready or ordinal in lost or self.is_consumed(ordinal)
            for ordinal in range(self.cursor, self.end)
        )

    def consume(self, step: Step[Group]) -> None:
        super().consume(step)
        self.progress.windows = [window for window in self.progress.windows if window[0] > self.cursor]


def early(groups: Mapping[int, Ready], cursor: int) -> dict[str, float]:
    """What of a step was trained on while an older group was open: groups, by source, too, and their mean length.

    `cursor`: the first ordinal that is open after the step. Lengths are tokens of a completion; one of no groups is
    left out.
    """
    counts = {"early_groups": 0.0} | {f"early_groups/{ready.scored.prompt.source}": 0.0 for ready in groups.values()}
    lengths: dict[str, list[int]] = {"early_tokens": [], "in_order_tokens": []}
    for ordinal, ready in groups.items():
        is_early = ordinal > cursor
        tokens = [completion.num_tokens for completion in ready.scored.group.completions]
        lengths["early_tokens" if is_early else "in_order_tokens"] += tokens
        counts["early_groups"] += is_early
        counts[f"early_groups/{ready.scored.prompt.source}"] += is_early
    return counts | {name: sum(tokens) / len(tokens) for name, tokens in lengths.items() if tokens}
