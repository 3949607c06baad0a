"""Which weights there are, and how a version of them comes to this host."""

from services.rollout.gate import Bell, Target
from shared.blobs.weights import WeightsAt, WeightsStore
from shared.bus.port import Bus
from shared.messages import EvalDone, EvalDue, Event, WeightsPublished

_EVALUATIONS = ("eval-due", "eval-done")


class WeightsView:
    """What has been announced of one job's weights and evaluations."""

    def __init__(self, bus: Bus, job: str) -> None:
        self._bus, self._job = bus, job
        self._newest: WeightsPublished | None = None
        self._newest_at = self._evaluations_at = 0  # sequences up to which the announcements were taken
        self._due: dict[int, EvalDue] = {}
        self._done: set[int] = set()
        self.news = Bell()
        """Rings at each announcement."""

    async def look(self) -> None:
        """What was announced so far, before the first prompt is taken: no evaluation that is done is open meanwhile."""
        newest = await self._bus.last_event(self._job, "weights")
        if newest is not None:
            self._take(*newest)
        last = max([await self._bus.last_sequence("events", self._job, name) for name in _EVALUATIONS])
        if last:
            async for event, sequence in self._bus.events(self._job, *_EVALUATIONS):
                self._take(event, sequence)
                if sequence >= last:
                    break

    async def watch(self) -> None:
        """Follow the announcements that are new, for ever."""
        after = min(self._newest_at, self._evaluations_at)
        async for event, sequence in self._bus.events(self._job, "weights", *_EVALUATIONS, after=after):
            self._take(event, sequence)

    def _take(self, event: Event, sequence: int) -> None:
        if sequence <= (self._newest_at if isinstance(event, WeightsPublished) else self._evaluations_at):
            return
        match event:
            case WeightsPublished():
                self._newest, self._newest_at = event, sequence
            case EvalDue(version=version):
                self._due[version] = event
                self._done.discard(version)
            case EvalDone(version=version):
                self._due.pop(version, None)
                self._done.add(version)
        if not isinstance(event, WeightsPublished):
            self._evaluations_at = sequence
        self.news.ring()

    @property
    def evaluating(self) -> bool:
        """Whether an evaluation is open."""
        return bool(self._due)

    @property
    def open_groups(self) -> int:
        """Training groups whose prompts may be out and that are not consumed, as far as is known here.

        While a step is being made of all that the window admits, those that wait for the next version.
        """
        newest = self._newest
        if newest is None:
            return 0
        return newest.prompts_end - (newest.window_end if newest.next_end > newest.window_end else newest.cursor)

    def admits(self, ordinal: int) -> bool:
        """Whether the newest weights may generate this training group."""
        return self._newest is not None and ordinal < self._newest.window_end

    def expects(self, ordinal: int) -> bool:
        """Whether weights are announced, or being computed, that may generate this training group."""
        return self._newest is not None and ordinal < self._newest.prompts_end

    def evaluation_done(self, version: int) -> bool:
        """Whether every held-out group of `version` is in the journal: its prompts that are left are of no use."""
        return version in self._done

    @property
    def newest(self) -> Target | None:
        """The weights of training; None before any is announced."""
        return None if self._newest is None else Target(self._newest.version, self._newest.manifest)

    def due(self, version: int) -> Target | None:
        """The weights of the open evaluation of `version`; None when there is none."""
        found = self._due.get(version)
        return None if found is None else Target(version, found.manifest)


class WeightsLoader:
    """Brings versions to this host; holds the files of the one that runs, so that the next one is a delta on it."""

    def __init__(self, store: WeightsStore) -> None:
        self._store = store
        self._running: WeightsAt | None = None
        self._target: Target | None = None

    def runs(self, target: Target) -> bool:
        """Whether the engine runs these very weights."""
        return self._target == target

    def at(self, target: Target) -> WeightsAt:
        """The files, to be given to `loaded` or closed. Blocks; raises BlobMissing."""
        return self._store.materialise(target.manifest, since=self._running)

    def loaded(self, target: Target, at: WeightsAt) -> None:
        """The engine runs `target` now."""
        self.close()
        self._target, self._running = target, at

    def forget(self) -> None:
        """The engine runs no weights any more: the next ones are new to it in all tensors."""
        self.close()
        self._target = self._running = None

    def close(self) -> None:
        """Let go of the files."""
        if self._running is not None:
            self._running.close()
