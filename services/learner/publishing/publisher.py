"""Weights and windows as the world sees them: the announcement and the ledger."""

import contextlib
import time

import msgspec

from services.learner.publishing.exports import Stored
from shared.bus.port import Bus
from shared.errors import Corrupt, Unavailable
from shared.ledger.port import Ledger, Window
from shared.messages import WeightsPublished

REFRESH_S = 5.0


class Publisher:
    """Announces versions and windows of one job; the window's end and the version never go back.

    Every announcement names the sequence of the one before: `Refused` is raised when another instance has written
    since, and this one must end.
    """

    def __init__(self, bus: Bus, ledger: Ledger, job: str) -> None:
        self._bus, self._ledger, self._job = bus, ledger, job
        self._sequence = 0
        self.last: WeightsPublished | None = None
        self._shown_at = 0.0

    @property
    def sequence(self) -> int:
        """Of the last announcement, in the events; 0 when there is none."""
        return self._sequence

    async def recover(self) -> WeightsPublished | None:
        """Read the last announcement of this job (None: there is none) and show it in the ledger."""
        found = await self._bus.last_event(self._job, "weights")
        if found is None:
            return None
        message, self._sequence = found
        assert isinstance(message, WeightsPublished)
        self.last = message
        await self._show()
        return message

    async def announcements(self) -> list[WeightsPublished]:
        """All announcements that the log still has, the newest last."""
        found: list[WeightsPublished] = []
        if self.last is not None:
            async for event, sequence in self._bus.events(self._job, "weights"):
                if isinstance(event, WeightsPublished):
                    found.append(event)
                if sequence >= self._sequence:
                    break
        return found

    async def announce(
        self,
        *,
        version: int,
        incarnation: int,
        stored: Stored,
        cursor: int,
        window_end: int,
        total_steps: int,
        max_staleness: int,
        stale_until: int,
    ) -> None:
        """Publish a version with its cursor and window; raises Refused when another learner has published since.

        `window_end`: as it follows from the cursor; a larger one that was announced before stays.
        """
        before = self.last
        if before is not None and cursor < before.cursor:
            raise Corrupt(
                f"version {version} of job {self._job} has cursor {cursor}, before the announced {before.cursor}"
            )
        await self._announce(
            WeightsPublished(
                job=self._job,
                version=version,
                incarnation=incarnation,
                cursor=cursor,
                window_end=max(window_end, before.window_end if before else 0),
                next_end=before.next_end if before else 0,
                max_staleness=max_staleness,
                total_steps=total_steps,
                manifest=stored.manifest,
                digest=stored.digest,
                sync=stored.sync,
                stale_until=stale_until,
                published_at=time.time(),
            )
        )

    async def look_ahead(self, end: int) -> None:
        """Say that the next version's window ends at `end` at least; nothing is said where that is no news."""
        if self.last is not None and end > self.last.prompts_end:
            await self._announce(msgspec.structs.replace(self.last, next_end=end))

    async def fence(self) -> None:
        """Write the last announcement again, before what can't be undone; raises Refused when it is not ours."""
        if self.last is not None:
            await self._announce(self.last)

    async def _announce(self, message: WeightsPublished) -> None:
        self._sequence = await self._bus.announce(message, expected_last=self._sequence)
        self.last = message
        await self._show()

    async def refresh(self) -> None:
        """Show the window again if it is a while ago: an emptied ledger heals."""
        if self.last is not None and time.monotonic() > self._shown_at + REFRESH_S:
            await self._show()

    async def _show(self) -> None:
        """The ledger is a view: a server that is away stops nothing."""
        assert self.last is not None
        last, self._shown_at = self.last, time.monotonic()
        with contextlib.suppress(Unavailable):
            await self._ledger.write_window(
                self._job, Window(last.version, last.cursor, last.window_end, last.max_staleness)
            )
