"""The data service on the in-memory bus: the gate, the seal, weight changes, evaluations, restarts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.data.config import DataConfig
from services.data.handlers import Deps, Heard, on_job
from services.data.metrics import instruments
from shared.blobs.store import BlobStore
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.errors import BadData
from shared.jobs.document import parse_job
from shared.jobs.following import ActiveJob, follow_active
from shared.jobs.record import Change, JobRecord, JobStore
from shared.messages import (
    BlobRef,
    EndOfOrder,
    EvalDone,
    EvalDue,
    Event,
    JobChanged,
    Prompt,
    Voided,
    WeightsPublished,
    decode,
)
from shared.service import Status
from tests.data.rows import boxes_row, broken_row, math_row, write
from tests.fakes import eventually
from tests.weather import through_weather, under

MANIFEST = BlobRef(digest="d" * 64, size=0)

LIMIT_S = 10.0
weather = under("sent again")


@dataclass
class World:
    """One job, its bus, and what data has published so far."""

    tmp_path: Path
    server: MemoryServer = field(default_factory=MemoryServer)

    def __post_init__(self) -> None:
        self.bus = MemoryBus(self.server)
        self.jobs = JobStore(self.bus)

    async def start(self, **keys: Any) -> ActiveJob:
        data = {"train": [str(self.tmp_path / "train")], "held_out": [str(self.tmp_path / "test")]}
        document = {"model": "m", "total_steps": 5, "data": data, "algorithm": {"prompts_per_step": 4}} | keys
        record = JobRecord(id="job", spec=parse_job(document), state="running", created_at=0.0)
        await self.jobs.create(record)
        return ActiveJob(record)

    def deps(self) -> Deps:
        blobs = BlobStore((self.tmp_path / "blobs").as_uri())
        config = DataConfig(drafts_ahead=8, drafts_at_once=3, publish_at_once=3)
        mine = through_weather(self.bus)
        return Deps(mine, blobs, JobStore(mine), instruments(), Status(), config)

    async def open_window(self, version: int, cursor: int, end: int, total_steps: int = 5, next_end: int = 0) -> None:
        await self.bus.announce(
            WeightsPublished(
                job="job",
                version=version,
                incarnation=0,
                cursor=cursor,
                window_end=end,
                next_end=next_end,
                max_staleness=0,
                total_steps=total_steps,
                manifest=MANIFEST,
                digest="",
            )
        )

    def published(self, subject: str = "prompts.job.train") -> list[Any]:
        stream = self.server.streams[subject.split(".")[0]]
        return [decode(stored.body) for stored in stream.entries.values() if stored.subject == subject]

    def groups(self, kind: str = "train") -> list[Any]:
        """Prompts and voids by ordinal."""
        both = self.published(f"prompts.job.{kind}") + self.published(f"scored.job.{kind}")
        return sorted(both, key=lambda group: group.ordinal)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await self.server.wait_change(LIMIT_S)

    async def change(self, job: ActiveJob, **fields: Any) -> None:
        job.update(await self.jobs.update("job", lambda record: msgspec.structs.replace(record, **fields)))


@contextlib.asynccontextmanager
async def serving(world: World, job: ActiveJob) -> AsyncIterator[None]:
    task = asyncio.ensure_future(on_job(job, world.deps()))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def world(tmp_path: Path) -> World:
    write(tmp_path / "train/a.parquet", [math_row(i) for i in range(9)])
    write(tmp_path / "train/b.parquet", [boxes_row(i) for i in range(6)] + [broken_row(7, "boxes")])
    write(tmp_path / "test/c.parquet", [math_row(100), broken_row(101), boxes_row(102), boxes_row(103)])
    return World(tmp_path)


async def test_without_weights_the_gate_is_closed_and_a_window_lets_out_exactly_its_ordinals(world: World) -> None:
    job = await world.start()
    async with serving(world, job):
        await world.until(lambda: len(world.server.streams["events"].entries) >= 1)
        assert world.groups() == []
        await world.open_window(0, 0, 4)
        await world.until(lambda: len(world.groups()) == 4)
        await world.open_window(1, 4, 8)
        await world.until(lambda: world.server.records["ordinal.job"].value == b"8")
    assert [group.ordinal for group in world.groups()] == list(range(8))
    prompts = [group for group in world.groups() if isinstance(group, Prompt)]
    assert {prompt.min_version for prompt in prompts if prompt.ordinal < 4} <= {0}
    assert {prompt.min_version for prompt in prompts if prompt.ordinal >= 4} == {1}


async def test_while_a_step_is_made_the_prompts_of_the_next_version_go_out_to_wait_for_it(world: World) -> None:
    job = await world.start()
    async with serving(world, job):
        await world.open_window(0, 0, 5)  # one of the first five was void
        await world.until(lambda: len(world.groups()) == 5)
        await world.open_window(0, 0, 5, next_end=9)
        await world.until(lambda: world.server.records["ordinal.job"].value == b"9")
        await world.open_window(1, 5, 10, next_end=9)
        await world.until(lambda: world.server.records["ordinal.job"].value == b"10")
    prompts = {group.ordinal: group for group in world.groups() if isinstance(group, Prompt)}
    assert {ordinal: prompt.min_version for ordinal, prompt in prompts.items()} == {
        ordinal: 0 if ordinal < 5 else 1 for ordinal in prompts
    }
    assert {prompt.reward.step for ordinal, prompt in prompts.items() if 5 <= ordinal < 9} == {2}


async def test_a_job_that_stops_is_sealed_behind_the_prompts_that_wait_for_the_next_version(world: World) -> None:
    job = await world.start()
    async with serving(world, job):
        await world.open_window(0, 0, 4, next_end=8)
        await world.until(lambda: len(world.groups()) == 8)
        await world.change(job, seal_wanted=True)
        await world.until(lambda: world.published("events.job.end-of-order") != [])
    (end,) = world.published("events.job.end-of-order")
    assert end.total == 8 and sorted(end.open) == list(range(8))


async def test_every_ordinal_of_an_epoch_is_a_prompt_or_a_void(world: World) -> None:
    job = await world.start(data={"train": [str(world.tmp_path / "train")], "epochs": 1})
    async with serving(world, job):
        await world.open_window(0, 0, 100)
        await world.until(lambda: world.published("events.job.end-of-order") != [])
    assert [group.ordinal for group in world.groups()] == list(range(16))
    assert len({group.sample_id for group in world.groups()}) == 16
    (void,) = [group for group in world.groups() if isinstance(group, Voided)]
    assert (void.reason, void.source) == ("bad-sample", "boxes")
    (end,) = world.published("events.job.end-of-order")
    assert (end.kind, end.total) == ("train", 16) and len(end.open) == 16
    assert end.open[void.ordinal] == ("boxes", void.task)


async def test_a_prompt_names_the_step_that_is_expected_to_train_on_it(world: World) -> None:
    """B = 4, cursor 8: ordinals 8 to 11 make step 3, 12 to 15 step 4; no step past the last one."""
    job = await world.start()
    await world.jobs.set_ordinal("job", 8)
    async with serving(world, job):
        await world.open_window(2, 8, 20, total_steps=4)
        await world.until(lambda: len(world.groups()) == 12)
    steps = {group.ordinal: group.reward.step for group in world.groups() if isinstance(group, Prompt)}
    assert {steps[o] for o in steps if o < 12} == {3}
    assert {steps[o] for o in steps if o >= 12} == {4}
    assert {group.reward.total_steps for group in world.groups() if isinstance(group, Prompt)} == {4}


async def test_after_a_restart_it_goes_on_where_it_was_with_the_same_order(world: World) -> None:
    job = await world.start()
    await world.open_window(0, 0, 5)
    async with serving(world, job):
        await world.until(lambda: len(world.groups()) == 5)
    await world.open_window(1, 4, 12)
    async with serving(world, ActiveJob(job.record)):
        await world.until(lambda: len(world.groups()) == 12)
    whole = World(world.tmp_path)
    async with serving(whole, await whole.start()):
        await whole.open_window(0, 0, 12)
        await whole.until(lambda: len(whole.groups()) == 12)
    assert [group.sample_id for group in world.groups()] == [group.sample_id for group in whole.groups()]
    assert {group.min_version for group in world.groups() if isinstance(group, Prompt) and group.ordinal >= 5} == {1}


async def test_an_ordinal_that_was_published_but_not_stored_is_published_once(world: World) -> None:
    job = await world.start()
    await world.open_window(0, 0, 6)
    async with serving(world, job):
        await world.until(lambda: len(world.groups()) == 6)
    await world.jobs.set_ordinal("job", 3)  # killed between the acknowledgement and the record
    async with serving(world, ActiveJob(job.record)):
        await world.open_window(0, 0, 8)
        await world.until(lambda: len(world.groups()) == 8)
    assert [group.ordinal for group in world.groups()] == list(range(8))


async def test_a_paused_job_admits_nothing_until_it_runs_again(world: World) -> None:
    job = await world.start()
    async with serving(world, job):
        await world.open_window(0, 0, 4)
        await world.until(lambda: len(world.groups()) == 4)
        await world.change(job, state="paused")
        await world.open_window(1, 4, 8)
        await world.bus.announce(EvalDue(job="job", version=1, manifest=MANIFEST))
        await world.until(lambda: len(world.groups("eval")) == 4)  # what came after the window was handled
        assert len(world.groups()) == 4
        await world.change(job, state="running")
        await world.until(lambda: len(world.groups()) == 8)


@pytest.mark.parametrize("wish", [{"state": "stopping"}, {"seal_wanted": True}], ids=["stop", "seal"])
async def test_a_stop_seals_the_order_and_names_what_may_be_open(world: World, wish: dict[str, Any]) -> None:
    job = await world.start()
    async with serving(world, job):
        await world.open_window(0, 0, 6)
        await world.until(lambda: len(world.groups()) == 6)
        await world.open_window(1, 4, 6)
        await world.change(job, **wish)
        await world.until(lambda: world.published("events.job.end-of-order") != [])
        await world.open_window(2, 4, 50)
    record = await world.jobs.get("job")
    assert record is not None and record.sealed == 6
    (end,) = world.published("events.job.end-of-order")
    assert (end.kind, end.total) == ("train", 6)
    assert set(end.open) <= set(range(6)) and {4, 5} <= set(end.open)
    assert len(world.groups()) == 6


async def test_a_stop_right_after_a_death_takes_in_the_lot_that_may_have_been_published(world: World) -> None:
    job = await world.start()
    await world.jobs.set_ordinal("job", 2)  # one lot is 3; a predecessor may have published up to 5 and not stored it
    await world.open_window(0, 0, 9)
    await world.change(job, state="stopping")
    async with serving(world, job):
        await world.until(lambda: world.published("events.job.end-of-order") != [])
    assert world.published("events.job.end-of-order")[0].total == 5
    assert await world.jobs.ordinal("job") == 5


async def test_a_seal_stands_after_a_restart(world: World) -> None:
    job = await world.start()
    await world.jobs.set_ordinal("job", 9)
    await world.change(job, sealed=7, state="stopping")
    async with serving(world, job):
        await world.until(lambda: world.published("events.job.end-of-order") != [])
    assert world.published("events.job.end-of-order")[0].total == 7
    assert world.groups() == []


class Deaf(MemoryBus):
    """Tells what was announced last, but never the events themselves: as if they came late."""

    async def events(self, job: str, *names: str, after: int = 0) -> AsyncIterator[tuple[Event, int]]:
        await asyncio.Event().wait()
        yield JobChanged(job=job, state="running"), 0


async def test_an_order_that_had_ended_before_a_restart_names_only_what_may_be_open(world: World) -> None:
    """16 ordinals, all published; the learner is at 12: nothing below it is read again."""
    job = await world.start(data={"train": [str(world.tmp_path / "train")], "epochs": 1})
    await world.jobs.set_ordinal("job", 16)
    await world.open_window(2, 8, 100)
    await world.open_window(3, 12, 100)
    world.bus = Deaf(world.server)
    async with serving(world, job):
        await world.until(lambda: world.published("events.job.end-of-order") != [])
    (end,) = world.published("events.job.end-of-order")
    assert (end.total, sorted(end.open)) == (16, [12, 13, 14, 15])


def test_events_heard_again_from_the_first_one_do_not_replace_the_newest() -> None:
    def weights(version: int, cursor: int) -> WeightsPublished:
        return WeightsPublished(
            job="job", version=version, incarnation=0, cursor=cursor, window_end=8, max_staleness=0, total_steps=2,
            manifest=MANIFEST, digest="",
        )  # fmt: skip

    heard = Heard(weights(1, 4))
    heard.on_event(weights(0, 0))
    assert heard.weights == weights(1, 4)


async def test_a_failed_job_that_is_resumed_goes_on_where_it_was_and_is_not_sealed(world: World) -> None:
    await world.start()
    ended = asyncio.Event()

    async def serve(job: ActiveJob) -> None:
        try:
            await on_job(job, world.deps())
        finally:
            ended.set()

    following = asyncio.ensure_future(follow_active(world.jobs, serve, service="data"))
    try:
        await world.open_window(0, 0, 4)
        await world.until(lambda: len(world.groups()) == 4)
        await world.jobs.move("job", "failed", "the learner has no memory left")
        async with asyncio.timeout(LIMIT_S):
            await ended.wait()
        await world.open_window(1, 4, 8)
        await world.jobs.move("job", "queued")
        await world.jobs.move("job", "running")
        await world.until(lambda: len(world.groups()) == 8)
    finally:
        following.cancel()
        await asyncio.wait({following})
    record = await world.jobs.get("job")
    assert record is not None and (record.state, record.seal_wanted, record.sealed) == ("running", False, None)
    assert [group.ordinal for group in world.groups()] == list(range(8))
    assert world.published("events.job.end-of-order") == []


async def test_a_weight_change_is_fixed_to_an_ordinal_before_it_takes_effect(world: World) -> None:
    job = await world.start()
    async with serving(world, job):
        await world.open_window(0, 0, 5)
        await world.until(lambda: len(world.groups()) == 5)
        before = [group.sample_id for group in world.groups()]
        wish = Change(key="sources.numbers.weight", value=0.0, requested_at=1.0)
        other = Change(key="max_staleness", value=2.0, requested_at=1.0)
        await world.change(job, changes=[wish, other])
        await world.open_window(1, 4, 17)
        await world.until(lambda: len(world.groups()) == 17)
    record = await world.jobs.get("job")
    assert record is not None and [change.since for change in record.changes] == [5, None]
    assert [group.sample_id for group in world.groups()][:5] == before
    assert {group.source for group in world.groups()[5:]} == {"boxes"}


async def test_a_weight_change_after_a_death_holds_behind_all_that_may_have_been_published(world: World) -> None:
    """A lot of three was published and not stored: the change must not give its ordinals other rows."""
    job = await world.start()
    async with serving(world, job):
        await world.open_window(0, 0, 6)
        await world.until(lambda: len(world.groups()) == 6)
    before = {group.ordinal: group.sample_id for group in world.groups()}
    await world.jobs.set_ordinal("job", 3)  # the second lot's was lost with the process
    await world.change(job, changes=[Change(key="sources.numbers.weight", value=0.0, requested_at=1.0)])
    async with serving(world, job):
        await world.open_window(1, 4, 12)
        await world.until(lambda: len({group.ordinal for group in world.groups()}) == 12)
    record = await world.jobs.get("job")
    assert record is not None and record.changes[0].since == 6
    after = {group.ordinal: group.sample_id for group in world.groups()}
    assert {ordinal: after[ordinal] for ordinal in before} == before


async def test_weights_that_leave_nothing_to_draw_are_not_written_into_the_job(world: World) -> None:
    job = await world.start()
    nothing = [Change(key=f"sources.{name}.weight", value=0.0, requested_at=1.0) for name in ("numbers", "boxes")]
    await world.change(job, changes=nothing)
    with pytest.raises(BadData, match="every source has weight 0"):
        async with asyncio.timeout(LIMIT_S):
            await on_job(job, world.deps())
    record = await world.jobs.get("job")
    assert record is not None and [change.since for change in record.changes] == [None, None]


async def test_a_job_remembers_its_files_and_refuses_to_go_on_with_others(world: World) -> None:
    job = await world.start()
    async with serving(world, job):
        await world.open_window(0, 0, 4)
        await world.until(lambda: len(world.groups()) == 4)
    record = await world.jobs.get("job")
    assert record is not None and record.data is not None
    assert (len(record.data.files), record.data.groups) == (3, 16)
    write(world.tmp_path / "train/a.parquet", [math_row(i) for i in range(3)])
    job.update(record)
    with pytest.raises(BadData, match=r"a\.parquet has other rows; .*`triune job resume job --accept-changed-data`"):
        await on_job(job, world.deps())
    await world.change(job, data=None)  # accepted
    async with serving(world, job):
        await world.open_window(1, 4, 8)
        await world.until(lambda: len({group.ordinal for group in world.groups()}) == 8)
    record = await world.jobs.get("job")
    assert record is not None and record.data is not None and record.data.groups == 10


async def test_files_that_were_changed_in_a_pause_are_noticed_when_it_ends(world: World) -> None:
    job = await world.start()
    deps = world.deps()
    serving_ = asyncio.ensure_future(on_job(job, deps))
    await world.open_window(0, 0, 4)
    await world.until(lambda: len(world.groups()) == 4)
    await world.change(job, state="paused")

    async def has_seen() -> bool:
        return deps.status.state == "paused"

    await eventually(has_seen)
    await world.open_window(1, 4, 8)
    write(world.tmp_path / "train/a.parquet", [math_row(i) for i in range(3)])
    await world.change(job, state="running")
    with pytest.raises(BadData, match="has other rows"):
        async with asyncio.timeout(LIMIT_S):
            await serving_
    assert len(world.groups()) == 4


async def test_files_that_come_later_are_left_out(world: World) -> None:
    job = await world.start()
    async with serving(world, job):
        await world.open_window(0, 0, 4)
        await world.until(lambda: len(world.groups()) == 4)
    write(world.tmp_path / "train/z.parquet", [math_row(i, "late") for i in range(50, 90)])
    async with serving(world, job):
        await world.open_window(1, 4, 20)
        await world.until(lambda: len({group.ordinal for group in world.groups()}) == 20)
    assert {group.source for group in world.groups()} == {"numbers", "boxes"}


async def test_an_evaluation_publishes_the_held_out_set_for_its_version_and_says_how_many(world: World) -> None:
    job = await world.start()
    async with serving(world, job):
        await world.bus.announce(EvalDue(job="job", version=0, manifest=MANIFEST))
        await world.until(lambda: world.published("events.job.end-of-order") != [])
    groups = world.groups("eval")
    assert [group.ordinal for group in groups] == [0, 1, 2, 3]
    assert [isinstance(group, Voided) for group in groups].count(True) == 1
    assert {group.version for group in groups} == {0}
    (end,) = world.published("events.job.end-of-order")
    assert (end.kind, end.total, end.version) == ("eval", 4, 0)
    assert world.groups() == []


async def test_after_a_restart_only_evaluations_that_are_not_done_are_published(world: World) -> None:
    job = await world.start()
    for version in (0, 2):
        await world.bus.announce(EvalDue(job="job", version=version, manifest=MANIFEST))
    await world.bus.announce(EvalDone(job="job", version=0, total=4, void=1))
    async with serving(world, job):
        await world.until(lambda: world.published("events.job.end-of-order") != [])
    assert {group.version for group in world.groups("eval")} == {2}


async def test_a_job_without_held_out_files_ends_an_evaluation_at_once(world: World) -> None:
    job = await world.start(data={"train": [str(world.tmp_path / "train")]})
    async with serving(world, job):
        await world.bus.announce(EvalDue(job="job", version=0, manifest=MANIFEST))
        await world.until(lambda: world.published("events.job.end-of-order") != [])
    assert world.published("events.job.end-of-order") == [EndOfOrder(job="job", kind="eval", total=0, version=0)]


async def test_files_that_cannot_be_used_end_the_job_with_every_reason(world: World) -> None:
    (world.tmp_path / "train/bad.parquet").write_text("a,b\n")
    write(world.tmp_path / "train/none.parquet", [])
    job = await world.start()
    with pytest.raises(BadData) as raised:
        await on_job(job, world.deps())
    assert len(str(raised.value).splitlines()) == 2


async def test_an_error_of_a_loop_is_raised_as_it_is(world: World) -> None:
    job = await world.start(sources={"chart": {"weight": 1.0}})
    with pytest.raises(BadData, match="no such source"):
        async with asyncio.timeout(LIMIT_S):
            await on_job(job, world.deps())
