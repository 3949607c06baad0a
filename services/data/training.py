"""The training order of one job, published up to the end of the window: the gate, weight changes, and the seal."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from services.data.ahead import Ahead
from services.data.config import DataConfig
from services.data.mixing.order import TrainingOrder, weight_source
from services.data.publish import admitted, publish_lot
from services.data.reading.rows import Rows
from services.data.reading.sources import Segment
from shared.bus.port import Bus
from shared.jobs.following import ActiveJob
from shared.jobs.record import JobRecord, JobStore
from shared.messages import EndOfOrder, Voided, WeightsPublished
from shared.runtime.logging import get_logger
from shared.runtime.metrics import Instruments
from shared.runtime.moments import passing
from shared.service import Status

LOOK_S = 1.0
"""A change of the job that nobody announced is seen after so long."""


class Training:
    """One job's training prompts; `ordinal` is the first one not yet published, the only state that outlives us."""

    def __init__(
        self,
        job: ActiveJob,
        sources: Mapping[str, list[Segment]],
        config: DataConfig,
        bus: Bus,
        jobs: JobStore,
        rows: Rows,
        look_again: Callable[[], Awaitable[None]],
    ) -> None:
        self._look_again = look_again  # at the files, once a pause is over
        self._job, self._sources, self._config = job, sources, config
        self._bus, self._jobs, self._rows = bus, jobs, rows
        self._log = get_logger(job=job.id)
        self.ahead = Ahead(config.drafts_ahead, config.drafts_at_once)
        self.ordinal = 0
        self._is_exact = False  # whether `ordinal` is ours; a predecessor may have published a lot that it never stored

    async def run(
        self, weights: Callable[[], WeightsPublished | None], instruments: Instruments, status: Status
    ) -> None:
        """Publish until the order is sealed; `weights` are the newest ones, None while there are none."""
        self.ordinal = await self._jobs.ordinal(self._job.id)
        order = await self._reorder(self._job.record)
        has_ended, was_paused = False, False
        while not _is_to_seal(self._job.record):
            if was_paused and self._job.record.state == "running":
                await self._look_again()
            was_paused = self._job.record.state == "paused"
            if _unfixed(self._job.record):
                order = await self._fix_weights(order, weights())
            if order.total is not None and self.ordinal >= order.total and not has_ended:
                has_ended = True
                await self._announce_end(order, order.total, weights())
            newest = weights()
            count = self._admits(newest, order.total)
            instruments.set("data.ready", len(self.ahead))
            status.state = "publishing" if count > 0 else self._job.record.state
            if newest is None or count <= 0:
                await self._job.changed(LOOK_S)
                continue
            await self._publish(count, newest, instruments)
        await self._seal(order, weights())

    def _admits(self, weights: WeightsPublished | None, total: int | None) -> int:
        """How many more ordinals may be published now."""
        if weights is None or self._job.record.state != "running":
            return 0
        end = weights.prompts_end if total is None else min(weights.prompts_end, total)
        return end - self.ordinal

    async def _publish(self, count: int, weights: WeightsPublished, instruments: Instruments) -> None:
        """Publish the next few admitted ordinals, then store how far we are."""
        drafts = await self.ahead.take(min(count, self._config.publish_at_once))
        started = time.perf_counter()
        per_step = self._job.spec.algorithm.prompts_per_step
        await publish_lot(self._bus, [admitted(draft, weights, per_step) for draft in drafts])
        passing("prompts-published")
        self._is_exact = True
        self.ordinal += len(drafts)
        await self._jobs.set_ordinal(self._job.id, self.ordinal)
        instruments.record("data.publish", time.perf_counter() - started)
        instruments.set("data.ordinal", self.ordinal)
        for draft in drafts:
            instruments.add("data.voided" if isinstance(draft, Voided) else "data.published", source=draft.source)

    async def _reorder(self, record: JobRecord) -> TrainingOrder:
        """The order under the record's weight changes; drafts of the old one are dropped."""
        order = await self._order(record)
        self.ahead.restart(order.at, self.ordinal, order.total)
        return order

    async def _order(self, record: JobRecord) -> TrainingOrder:
        return await asyncio.to_thread(
            TrainingOrder, self._job.id, self._job.spec, self._sources, self._rows, record.changes
        )

    def _first_unpublished(self, order: TrainingOrder, weights: WeightsPublished | None) -> int:
        """The first ordinal that was surely never published.

        Right after a death that takes in all that may have been published and not stored: at most one lot.
        """
        if self._is_exact or weights is None:
            return self.ordinal
        end = weights.prompts_end if order.total is None else min(weights.prompts_end, order.total)
        return max(self.ordinal, min(end, self.ordinal + self._config.publish_at_once))

    async def _fix_weights(self, order: TrainingOrder, weights: WeightsPublished | None) -> TrainingOrder:
        """Write from which ordinal on the wanted weights hold, before the first such ordinal is published.

        Raises BadData, and writes nothing, when they leave nothing to draw.
        """
        since = self._first_unpublished(order, weights)

        def fix(record: JobRecord) -> JobRecord:
            changes = [
                msgspec.structs.replace(change, since=since) if change in _unfixed(record) else change
                for change in record.changes
            ]
            return msgspec.structs.replace(record, changes=changes)

        await self._order(fix(self._job.record))
        record = await self._jobs.update(self._job.id, fix)
        self._job.update(record)
        self._log.info("source weights changed", since=since)
        return await self._reorder(record)

    async def _seal(self, order: TrainingOrder, weights: WeightsPublished | None) -> None:
        """Say that no ordinal past the last published one will come; an earlier seal stands.

        What of a dead instance's last lot was never published becomes void with the rest.
        """
        found = await self._bus.last_event(self._job.id, "weights")
        weights = found[0] if found and isinstance(found[0], WeightsPublished) else weights
        last = self._first_unpublished(order, weights)

        def seal(record: JobRecord) -> JobRecord:
            return record if record.sealed is not None else msgspec.structs.replace(record, sealed=last)

        record = await self._jobs.update(self._job.id, seal)
        self._job.update(record)
        sealed = last if record.sealed is None else record.sealed
        await self._jobs.set_ordinal(self._job.id, max(sealed, self.ordinal))
        await self._announce_end(order, sealed, weights)
        self._log.info("order sealed", total=sealed)

    async def _announce_end(self, order: TrainingOrder, total: int, weights: WeightsPublished | None) -> None:
        """The order's length, with the sources of all ordinals that may still be open."""
        open_ = await asyncio.to_thread(_names, order, range(weights.cursor if weights else 0, total))
        await self._bus.announce(EndOfOrder(job=self._job.id, kind="train", total=total, open=open_))


def _names(order: TrainingOrder, ordinals: range) -> dict[int, tuple[str, str]]:
    drafts = [order.at(ordinal) for ordinal in ordinals]
    return {draft.ordinal: (draft.source, draft.task) for draft in drafts}


def _is_to_seal(record: JobRecord) -> bool:
    return record.state == "stopping" or record.seal_wanted or record.sealed is not None


def _unfixed(record: JobRecord) -> list[object]:
    """Weight changes that were asked for and hold from no ordinal yet."""
    return [change for change in record.changes if weight_source(change) is not None and change.since is None]
