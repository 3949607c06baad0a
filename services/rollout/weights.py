"""Which weights there are, and how the engine comes to a version of them."""

import asyncio
import time
from collections.abc import Callable

from services.rollout.engine import Engine
from shared.blobs.weights import WeightsAt, WeightsStore
from shared.bus.port import Bus
from shared.errors import Unavailable
from shared.messages import BlobRef, EvalDone, EvalDue, Event, WeightsPublished


class WeightsView:
    """What has been announced of one job's weights and evaluations."""

    def __init__(self, bus: Bus, job: str) -> None:
        self._bus, self._job = bus, job
        self._newest: WeightsPublished | None = None
        self._due: dict[int, EvalDue] = {}
        self._done: set[int] = set()
        self._news = asyncio.Event()

    async def look(self) -> None:
        """What was announced last, before the first prompt is taken."""
        for name in ("weights", "eval-due", "eval-done"):
            found = await self._bus.last_event(self._job, name)
            if found is not None:
                self._take(found[0])

    async def watch(self) -> None:
        """Follow the announcements, for ever."""
        async for event, _ in self._bus.events(self._job, "weights", "eval-due", "eval-done"):
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case WeightsPublished():
                self._newest = event
            case EvalDue(version=version):
                self._due[version] = event
                self._done.discard(version)
            case EvalDone(version=version):
                self._due.pop(version, None)
                self._done.add(version)
        self._news.set()

    @property
    def evaluating(self) -> bool:
        """Whether an evaluation is open."""
        return bool(self._due)

    @property
    def window_end(self) -> int:
        """The first training ordinal that was not admitted yet, as far as is known here."""
        return self._newest.window_end if self._newest else 0

    def evaluation_done(self, version: int) -> bool:
        """Whether every held-out group of `version` is in the journal: its prompts that are left are of no use."""
        return version in self._done

    async def at_least(self, version: int, limit_s: float) -> tuple[int, BlobRef]:
        """The newest version and its manifest, once it is `version` or later; Unavailable after `limit_s`."""
        await self._wait(lambda: self._newest is not None and self._newest.version >= version, version, limit_s)
        assert self._newest is not None
        return self._newest.version, self._newest.manifest

    async def evaluated(self, version: int, limit_s: float) -> tuple[int, BlobRef] | None:
        """`version` and its manifest, once its evaluation is announced; None once it is done.

        Raises Unavailable after `limit_s`. Done means that others have generated it: its weights may be gone.
        """
        await self._wait(lambda: version in self._due or version in self._done, version, limit_s)
        return (version, self._due[version].manifest) if version in self._due else None

    async def _wait(self, there: Callable[[], bool], version: int, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                while not there():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise Unavailable(f"weights {version} of job {self._job} were not announced within {limit_s} s") from None


class WeightsLoader:
    """Brings the engine to a version; holds the files of the one that runs, so that the next one is a delta on it.

    Blocks: its methods are called from the engine's thread.
    """

    def __init__(self, engine: Engine, store: WeightsStore) -> None:
        self._engine, self._store = engine, store
        self._runs: WeightsAt | None = None

    def runs(self, version: int, manifest: BlobRef) -> bool:
        """Whether the engine runs these very weights."""
        return self._runs is not None and (self._engine.version, self._runs.ref) == (version, manifest)

    def load(self, version: int, manifest: BlobRef) -> float:
        """Load what `manifest` names; returns the seconds it took.

        Raises BlobMissing, or Corrupt when it doesn't fit the model.
        """
        started = time.monotonic()
        at = self._store.materialise(manifest, since=self._runs)
        before, self._runs = self._runs, None  # a load that fails half-way leaves nothing to build on
        self._engine.load(at)
        if before is not None:
            before.close()
        self._runs = at
        return time.monotonic() - started

    def close(self) -> None:
        """Let go of the files."""
        if self._runs is not None:
            self._runs.close()
