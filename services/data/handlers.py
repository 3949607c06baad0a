"""A job's prompts go out: for training as far as the window is open, for an evaluation all of the held-out set.

The window comes from the last `WeightsPublished`: it is self-contained and outlives Redis, where the same numbers stand
for others to see. No event yet means that the gate is closed.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from services.data.config import DataConfig
from services.data.facts import facts_of, files_of, same_files
from services.data.mixing.order import HeldOut, order_length
from services.data.publish import publish_lot
from services.data.reading.rows import STORES, Rows
from services.data.reading.sources import Segment, index_sources
from services.data.training import LOOK_S, Training
from shared.blobs.port import Blobs
from shared.bus.port import Bus
from shared.jobs.following import ActiveJob
from shared.jobs.record import JobStore
from shared.messages import EndOfOrder, EvalDone, EvalDue, Event, WeightsPublished
from shared.runtime.logging import get_logger
from shared.runtime.metrics import Instruments
from shared.runtime.retry import Retry
from shared.samples.files import open_files
from shared.samples.places import ANYWHERE, Roots
from shared.samples.plugins import verifiers_for
from shared.service import Status

_EVENTS = ("weights", "eval-due", "eval-done")


@dataclass(frozen=True)
class Deps:
    """What the handlers work with. `roots`: folders that data must lie under; none: any. `plugin_roots`: those of
    files with a job's own verifiers.
    """

    bus: Bus
    blobs: Blobs
    jobs: JobStore
    instruments: Instruments
    status: Status
    config: DataConfig = field(default_factory=DataConfig)
    roots: Roots = ANYWHERE
    retry: Retry = field(default_factory=Retry)
    plugin_roots: tuple[Path, ...] = ()


@dataclass
class Heard:
    """What the learner has announced for one job; `due` are evaluations to publish, by version."""

    weights: WeightsPublished | None = None
    due: dict[int, EvalDue] = field(default_factory=dict)
    is_caught_up: bool = False

    def on_event(self, event: Event) -> None:
        """Keep the newest weights (neither window nor cursor ever goes back) and the open evaluations."""
        match event:
            case WeightsPublished():
                if self.weights is None or _reach(event) >= _reach(self.weights):
                    self.weights = event
            case EvalDue(version=version):
                self.due[version] = event
            case EvalDone(version=version):
                self.due.pop(version, None)


def _reach(weights: WeightsPublished) -> tuple[int, int]:
    return weights.window_end, weights.cursor


async def on_job(job: ActiveJob, deps: Deps) -> None:
    """Serve the active job until it ends (then this is cancelled).

    Raises BadData when its files cannot be used, or are not those that it began with.
    """
    while True:
        with contextlib.suppress(OtherFiles):
            await _serve(job, deps)


async def _serve(job: ActiveJob, deps: Deps) -> None:
    verifiers = await asyncio.to_thread(verifiers_for, job.spec.reward.plugins, deps.plugin_roots)
    train, held_out = await _opened(job, deps)
    log = get_logger(job=job.id)
    log.info("data opened", rows=_rows(train), held_out=_rows(held_out), sources=list(train))
    heard, blobs = Heard(), deps.blobs.of(job.id)
    newest = await deps.bus.last_event(job.id, "weights")
    if newest is not None:  # before the first ordinal is looked at: its cursor says which ones may still be open
        heard.on_event(newest[0])
    rows = Rows(blobs, deps.config.rows_kept, deps.roots, deps.retry, verifiers)
    training = Training(job, train, deps.config, deps.bus, deps.jobs, rows, lambda: _look_again(job, deps))
    evaluated = HeldOut(
        job.id, job.spec, held_out, Rows(blobs, deps.config.rows_kept, deps.roots, deps.retry, verifiers)
    )
    await _until_first_error(
        _listen(job, heard, deps),
        training.run(lambda: heard.weights, deps.instruments, deps.status),
        training.ahead.run(),
        _evaluate(job, heard, evaluated, deps),
    )


Index = dict[str, list[Segment]]


class OtherFiles(Exception):
    """Somebody has accepted that the files are others now: they are opened anew."""


async def _opened(job: ActiveJob, deps: Deps) -> tuple[Index, Index]:
    """The segments of the training and the held-out files, by source, which are put on record the first time."""
    train, held_out = await deps.retry.until_back(STORES, lambda: asyncio.to_thread(_open, job, deps.roots))
    if job.record.data is None:
        first_pass = await asyncio.to_thread(lambda: order_length(job.spec, train, epochs=1))
        facts = facts_of(files_of(train, held_out), first_pass)
        job.update(
            await deps.jobs.update(job.id, lambda old: old if old.data else msgspec.structs.replace(old, data=facts))
        )
    return train, held_out


def _open(job: ActiveJob, roots: Roots) -> tuple[Index, Index]:
    """Of the files that the job names, those that it began with."""
    named = job.spec.data
    train, held_out = open_files(named.train, roots=roots), open_files(named.held_out, roots=roots)
    same = set(same_files(job.id, [*train, *held_out], job.record.data))
    return index_sources([file for file in train if file in same]), index_sources(
        [file for file in held_out if file in same]
    )


async def _look_again(job: ActiveJob, deps: Deps) -> None:
    """A job goes on that was paused: raises BadData when its files are others, OtherFiles when that is accepted."""
    if job.record.data is None:
        raise OtherFiles
    await deps.retry.until_back(STORES, lambda: asyncio.to_thread(_open, job, deps.roots))


def _rows(sources: dict[str, list[Segment]]) -> int:
    return sum(len(segment.rows) for segments in sources.values() for segment in segments)


async def _listen(job: ActiveJob, heard: Heard, deps: Deps) -> None:
    """Hear every event of the job from its first one on; what was done before a restart is not begun again."""
    newest = [await deps.bus.last_event(job.id, name) for name in _EVENTS]
    last = max((found[1] for found in newest if found), default=0)
    heard.is_caught_up = last == 0
    async for event, sequence in deps.bus.events(job.id, *_EVENTS):
        heard.on_event(event)
        heard.is_caught_up = heard.is_caught_up or sequence >= last
        job.ring()


async def _evaluate(job: ActiveJob, heard: Heard, held_out: HeldOut, deps: Deps) -> None:
    """Publish the held-out set for each evaluation that is due, the oldest version first."""
    while True:
        if not heard.is_caught_up or not heard.due:
            await job.changed(LOOK_S)
            continue
        version = min(heard.due)
        heard.due.pop(version)
        await on_eval_due(job, version, held_out, deps)


async def on_eval_due(job: ActiveJob, version: int, held_out: HeldOut, deps: Deps) -> None:
    """Publish every held-out prompt for `version`, then how many there are.

    Done again after a restart in its middle: the ids are the same, and a group counts once.
    """
    lot = deps.config.publish_at_once
    for start in range(0, len(held_out), lot):
        ordinals = range(start, min(start + lot, len(held_out)))
        drafts = await asyncio.to_thread(lambda places: [held_out.at(place, version) for place in places], ordinals)
        step = min(version, job.spec.total_steps)
        await publish_lot(deps.bus, [(draft, step, job.spec.total_steps) for draft in drafts])
        deps.instruments.add("data.held_out", len(drafts))
    await deps.bus.announce(EndOfOrder(job=job.id, kind="eval", total=len(held_out), version=version))
    get_logger(job=job.id).info("held-out set published", version=version, prompts=len(held_out))


async def _until_first_error(*works: Coroutine[None, None, None]) -> None:
    """Run all until one fails, and raise that one's error as it is (a task group would wrap it)."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
