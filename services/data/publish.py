"""Drafts become messages: what is known only at the moment of publishing is filled in, then they go out together."""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from services.data.mixing.order import Draft
from shared.bus.port import Bus
from shared.errors import one_error
from shared.messages import Prompt, Voided, WeightsPublished, message_id
from shared.runtime.telemetry import group_span


def admitted(draft: Draft, weights: WeightsPublished, prompts_per_step: int) -> tuple[Draft, int, int]:
    """`draft` stamped with the version whose window admits it, and (step, total steps) at which it will be judged.

    The step is the one that is expected to train on it; groups that turn out void before it only make it later. Past
    the window it is the next version that admits it, and the step on that one which trains on it.
    """
    waits = draft.ordinal >= weights.window_end
    ahead = 1 if waits else max(0, draft.ordinal - weights.cursor) // prompts_per_step
    step = min(weights.version + 1 + ahead, weights.total_steps)
    if isinstance(draft, Prompt):
        draft = msgspec.structs.replace(draft, min_version=weights.version + waits)
    return draft, step, weights.total_steps


_AT_ONCE = 4
"""So many leave together: who generates begins with them while the next ones are encoded."""


async def publish_lot(bus: Bus, lot: Sequence[tuple[Draft, int, int]]) -> None:
    """Publish prompts (and, for unusable rows, voids) with their step and total steps; returns when all are stored.

    Raises Unavailable past the bus's limit.
    """
    with one_error():
        async with asyncio.TaskGroup() as group:
            for place, (draft, step, total_steps) in enumerate(lot, 1):
                group.create_task(_publish(bus, draft, step, total_steps))
                if place % _AT_ONCE == 0:
                    await asyncio.sleep(0)


async def _publish(bus: Bus, draft: Draft, step: int, total_steps: int) -> None:
    identity = message_id(draft.job, draft.kind, draft.version, draft.ordinal)
    if isinstance(draft, Voided):
        await bus.publish("scored", draft.job, draft.kind, draft, identity)
        return
    reward = msgspec.structs.replace(draft.reward, step=step, total_steps=total_steps)
    prompt = msgspec.structs.replace(draft, reward=reward, published_at=time.time())
    with group_span("data.publish", prompt, {}):
        await bus.publish("prompts", draft.job, draft.kind, prompt, identity)
