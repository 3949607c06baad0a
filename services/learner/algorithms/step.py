"""What an advantage needs of all groups of a step."""

from collections.abc import Sequence
from dataclasses import replace

from services.learner.algorithms.advantages import reinforce_baseline
from services.learner.attention.batch import Ready
from shared.jobs.spec import Algorithm


def over_step(groups: Sequence[Ready], settings: Algorithm) -> list[Ready]:
    """The groups of a step, their advantages scaled by those of all of them where the algorithm says so."""
    if settings.advantage != "reinforce_baseline":
        return list(groups)
    scaled = reinforce_baseline.over_step([group.advantages for group in groups])
    return [
        replace(
            group,
            advantages=advantages,
            responses=tuple(replace(row, advantage=float(advantages[row.index])) for row in group.responses),
        )
        for group, advantages in zip(groups, scaled, strict=True)
    ]
