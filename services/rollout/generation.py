"""A group's message from what was prepared and sampled."""

import time

from services.rollout.engine import Prepared
from shared.messages import Completed, Completion, Prompt, pack_ints


def completed(
    prompt: Prompt,
    prepared: Prepared,
    completions: list[Completion],
    patch_size: int,
    replica: str,
    started_at: float,
) -> Completed:
    """The group's message, finished now."""
    return Completed(
        prompt=prompt,
        completions=completions,
        prompt_ids=pack_ints(prepared.ids),
        image_grid_thw=prepared.image_grid_thw,
        patch_size=patch_size,
        replica=replica,
        started_at=started_at,
        finished_at=time.time(),
        box_convention=prepared.box_convention,
    )
