"""Reading a log to its end. The end is a sequence: a silence may be a server that is away."""

from collections.abc import AsyncIterator

from shared.bus.port import Bus, JournalEntry, JournalReader
from shared.messages import Event

RECORDS_A_FETCH = 256
_WAIT_S = 1.0


async def read_to(reader: JournalReader, last: int) -> AsyncIterator[JournalEntry]:
    """Every entry up to sequence `last`, which the log holds; waits for a server that is away. Closes the reader."""
    try:
        while reader.position < last:
            for entry in await reader.fetch(RECORDS_A_FETCH, _WAIT_S):
                if entry.sequence <= last:
                    yield entry
    finally:
        await reader.close()


async def read_events(bus: Bus, job: str, name: str, *, start: int = 1) -> AsyncIterator[tuple[Event, int]]:
    """The job's events of that name from sequence `start` to the newest there is now."""
    last = await bus.last_sequence("events", job, name)
    if last >= start:
        async for entry in read_to(await bus.read_events(job, name, start=start), last):
            yield entry.message, entry.sequence  # type: ignore[misc]  # the stream carries events alone
