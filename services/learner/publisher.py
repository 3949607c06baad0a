"""Weights and windows as the world sees them: blobs, the announcement, the ledger, and what may be deleted."""

import asyncio
import contextlib
import time
from collections.abc import Mapping

import blake3
import safetensors.torch
from torch import Tensor

from shared.blobs.port import Blobs
from shared.bus.port import Bus
from shared.errors import Corrupt, Unavailable
from shared.ledger.port import Ledger, Window
from shared.messages import BlobRef, WeightsPublished
from shared.staleness import window_end

REFRESH_S = 5.0


class Publisher:
    """Announces versions and windows of one job; the window's end and the version never go back.

    Every announcement names the sequence of the one before: `Refused` is raised when another instance has written
    since, and this one must end.
    """

    def __init__(self, bus: Bus, ledger: Ledger, blobs: Blobs, job: str) -> None:
        self._bus, self._ledger, self._blobs, self._job = bus, ledger, blobs, job
        self._sequence = 0
        self.last: WeightsPublished | None = None
        self.bytes_written = 0
        self._chains: dict[int, list[BlobRef]] = {}
        self._shown_at = 0.0

    async def recover(self) -> WeightsPublished | None:
        """Read the last announcement of this job (None: there is none) and show it in the ledger."""
        found = await self._bus.last_event(self._job, "weights")
        if found is None:
            return None
        message, self._sequence = found
        assert isinstance(message, WeightsPublished)
        self.last = message
        await self._recover_chains()
        await self._show()
        return message

    async def _recover_chains(self) -> None:
        """Learn from the earlier announcements which blobs there may be, so that they are deleted in time."""
        async for event, sequence in self._bus.events(self._job, "weights"):
            if isinstance(event, WeightsPublished):
                self._chains[event.version] = list(event.chain)
            if sequence >= self._sequence:
                return

    async def store(self, tensors: Mapping[str, Tensor], *, anchor: bool) -> tuple[list[BlobRef], str]:
        """Put weights into the blob store; returns the chain and the digest of all tensors together.

        An anchor holds every tensor; a later version holds the trained ones only and is applied on top of it.
        """
        data = await asyncio.to_thread(safetensors.torch.save, dict(sorted(tensors.items())))
        ref = await asyncio.to_thread(self._blobs.put, data)
        self.bytes_written += ref.size
        chain = [ref] if anchor else [self._anchor(), ref]
        return chain, blake3.blake3("".join(blob.digest for blob in chain).encode()).hexdigest()

    async def has_anchor(self) -> bool:
        """Whether the anchor that later versions are applied to is announced and in the blob store."""
        return self.last is not None and await asyncio.to_thread(self._blobs.has, self.last.chain[0])

    async def has_last(self) -> bool:
        """Whether all blobs of the last announcement are in the blob store."""
        chain = self.last.chain if self.last else []
        return all([await asyncio.to_thread(self._blobs.has, ref) for ref in chain])

    def _anchor(self) -> BlobRef:
        if self.last is None:
            raise RuntimeError("the first version must be an anchor")
        return self.last.chain[0]

    async def announce(
        self,
        *,
        version: int,
        incarnation: int,
        chain: list[BlobRef],
        digest: str,
        cursor: int,
        lost: int,
        total_steps: int,
        prompts_per_step: int,
        max_staleness: int,
    ) -> None:
        """Publish a version with its cursor and window; raises Refused when another learner has published since."""
        before = self.last
        if before is not None and cursor < before.cursor:
            raise Corrupt(
                f"version {version} of job {self._job} has cursor {cursor}, before the announced {before.cursor}"
            )
        end = window_end(
            cursor=cursor,
            version=version,
            total_steps=total_steps,
            prompts_per_step=prompts_per_step,
            max_staleness=max_staleness,
            lost=lost,
        )
        await self._announce(
            WeightsPublished(
                job=self._job,
                version=version,
                incarnation=incarnation,
                cursor=cursor,
                window_end=max(end, before.window_end if before else 0),
                max_staleness=max_staleness,
                total_steps=total_steps,
                chain=chain,
                digest=digest,
                published_at=time.time(),
            )
        )
        self._chains[version] = chain

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

    async def delete_before(self, version: int, needed: set[int]) -> None:
        """Delete the blobs of versions below `version` that are not in `needed` and that no kept version shares."""
        old = [v for v in self._chains if v < version and v not in needed]
        kept = {ref.digest for v, chain in self._chains.items() if v not in old for ref in chain}
        for v in old:
            for ref in self._chains.pop(v):
                if ref.digest not in kept:
                    await asyncio.to_thread(self._blobs.delete, ref)
