"""Whether a job's groups fit into the journal, before it is let in or widened."""

from collections.abc import Iterable
from typing import get_args

from shared.bus.port import MAX_BODY_BYTES, Bus
from shared.jobs.record import ENDED, JobRecord
from shared.jobs.spec import JobSpec, Source
from shared.messages import Kind

LARGEST_RECORD = MAX_BODY_BYTES
"""A larger group goes to the blob store; its record holds a digest."""
JOURNAL_REST = 0.3
"""Share of the journal's bytes that the learner keeps free by its checkpoints."""
_TOKEN_BYTES = 4 + 4 + 4
"""Of a completion's token at most: its id, its log-probability, and about four letters of text."""


JOURNAL_KEYS = (
    "algorithm.prompts_per_step",
    "algorithm.samples_per_prompt",
    "algorithm.max_staleness",
    "sampling.max_new_tokens",
    "data.max_prompt_tokens",
    "sources",
)
"""What the size of a job's groups follows from."""


def journal_mistakes(spec: JobSpec, max_bytes: int, left_over: int = 0) -> list[str]:
    """Whether the window and one more step of groups fit in the rest of a journal of `max_bytes` (-1: unlimited).

    `left_over` bytes of it are held by jobs that have ended and were not forgotten.

    A full journal never waits for a checkpoint only if they do. Groups count at their largest: every completion as
    long as it may be.
    """
    algorithm = spec.algorithm
    tokens = max(
        (own.samples_per_prompt or algorithm.samples_per_prompt) * (own.max_new_tokens or spec.sampling.max_new_tokens)
        for own in (Source(), *spec.sources.values())
    )
    group = tokens * _TOKEN_BYTES + 4 * spec.data.max_prompt_tokens
    groups = (algorithm.max_staleness + 2) * algorithm.prompts_per_step
    needed, rest = groups * min(group, LARGEST_RECORD), JOURNAL_REST * (max_bytes - left_over)
    if max_bytes < 0 or needed <= rest:
        return []
    return [
        f"the window and one step, {groups} groups, may take {needed / 1e6:.0f} MB of the journal, of which "
        f"{rest / 1e6:.0f} MB are kept free: lower algorithm.prompts_per_step, algorithm.max_staleness or "
        "sampling.max_new_tokens"
        + (f", or delete jobs that failed: they hold {left_over / 1e6:.0f} MB" if left_over else "")
    ]


async def left_over_bytes(bus: Bus, records: Iterable[JobRecord], *, besides: str = "") -> int:
    """About how much of the journal is held by jobs that have ended (all but `besides`), by their share of records."""
    state = await bus.stream_state("scored")
    ended = [record.id for record in records if record.state in ENDED and record.id != besides]
    held = 0
    for job in ended:
        for kind in get_args(Kind):
            held += await bus.stored("scored", job, kind)
    return state.bytes * held // state.messages if state.messages else 0
