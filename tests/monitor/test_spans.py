"""What every replica did when, and what a step took: from the stamps of hand-made groups and steps."""

from pathlib import Path

import msgspec
import pytest

from services.monitor.analysis.spans import merged, step_costs, timeline
from services.monitor.history.batch import Batch
from services.monitor.history.fold import Fold
from services.monitor.history.queries import Interval
from services.monitor.history.store import Store
from shared.bus.port import JournalEntry
from shared.messages import Portion, Scored
from tests.monitor import runs


def at(ordinal: int, start: float, end: float, replica: str = "rollout-a") -> Scored:
    """A group that was generated from `start` to `end` and then scored for half a second."""
    scored = runs.group(ordinal)
    group = msgspec.structs.replace(scored.group, started_at=start, finished_at=end, replica=replica)
    return msgspec.structs.replace(scored, group=group, started_at=end, finished_at=end + 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two steps of two groups; the learner computes 1 s a step, stores 0.125 s and waits 0.25 s before."""
    store = Store(tmp_path)
    groups = [at(0, 95.0, 97.0), at(1, 96.0, 98.0, "rollout-b"), at(2, 194.0, 196.0), at(3, 195.0, 198.0)]
    entries = [JournalEntry(number + 1, group) for number, group in enumerate(groups)]
    done = [(runs.step_done(1, [0, 1]), 1), (runs.step_done(2, [2, 3]), 2)]
    Fold(store).apply(Batch(train=entries, events=done))  # type: ignore[arg-type]
    store.close()
    return tmp_path


def test_intervals_that_touch_overlap_or_lie_close_are_one() -> None:
    parts = [Interval(8, 9), Interval(0, 2), Interval(1, 3), Interval(3, 4), Interval(6, 6)]
    assert merged(parts) == [Interval(0, 4), Interval(8, 9)]
    assert merged(parts, gap=4) == [Interval(0, 9)]


def test_a_timeline_has_a_lane_for_each_kind_of_work_of_each_replica(folder: Path) -> None:
    found = timeline(folder, 10.0, None)
    assert (found.start, found.end) == (190.0, 200.0)  # the last step's end
    lanes = {(lane.replica, lane.work): lane for lane in found.lanes}
    assert list(lanes) == [
        ("rollout-a", "generate"),
        ("reward-a", "score"),
        ("learner", "update"),
        ("learner", "publish"),
        ("learner", "wait"),
    ]
    generate = lanes["rollout-a", "generate"]
    assert generate.busy == pytest.approx(0.4)  # 194 to 198
    assert [(round(start, 6), round(end, 6)) for start, end in generate.spans] == [(194.0, 198.0)]
    assert lanes["learner", "update"].spans[0] == pytest.approx((198.875, 199.875))
    assert lanes["learner", "wait"].busy == pytest.approx(0.025)
    assert found.sentence == "generation is busy 40% of the time, more than anything else; the learner waits 2% of it"


def test_between_its_portions_the_learner_waits(tmp_path: Path) -> None:
    """It waited for 0.25 s in all, before, between and behind two portions of 2 s and 1 s."""
    portions = [Portion([0], 95.675, 97.675), Portion([1], 97.775, 98.775)]
    step = runs.step_done(1, [0, 1, 2], portions=portions)
    step = msgspec.structs.replace(step, timing=step.timing | {"overlap_s": 3.0})
    store = Store(tmp_path)
    Fold(store).apply(Batch(train=runs.entries(*(at(k, 95.0, 98.0) for k in range(3))), events=[(step, 1)]))
    lanes = {
        lane.work: [(round(s, 3), round(e, 3)) for s, e in lane.spans] for lane in timeline(tmp_path, 10, None).lanes
    }
    assert lanes["update"] == [(95.675, 97.675), (97.775, 98.775), (98.875, 99.875)]
    assert lanes["wait"] == [(95.625, 95.675), (97.675, 97.775), (98.775, 98.875)]
    assert step_costs(tmp_path, 1, gpus=0, price=0)[0].update_s == 4.0


def test_a_timeline_of_another_stretch_clips_what_reaches_into_it(folder: Path) -> None:
    found = timeline(folder, 1.0, 97.5)
    lanes = {(lane.replica, lane.work): lane.busy for lane in found.lanes}
    assert lanes["rollout-a", "generate"] == pytest.approx(0.5)
    assert lanes["rollout-b", "generate"] == pytest.approx(1.0)
    assert lanes["reward-a", "score"] == pytest.approx(0.5)


def test_a_step_costs_the_seconds_of_each_service_and_money_where_a_price_is_set(folder: Path) -> None:
    second, first = step_costs(folder, 10, gpus=8.0, price=2.5)
    assert (first.step, first.wall_s, first.money) == (1, None, None)
    assert first.generation_s == pytest.approx(4.0)  # two replicas, two seconds each
    assert (second.step, second.groups) == (2, 2)
    assert second.wall_s == pytest.approx(100.0)
    assert second.generation_s == pytest.approx(4.0)  # 194 to 198 once, though two groups overlap
    assert second.scoring_s == pytest.approx(1.0)
    assert (second.update_s, second.publish_s, second.wait_s) == (1.0, 0.125, 0.25)
    assert second.gpu_hours == pytest.approx(100 * 8 / 3600)
    assert second.money == pytest.approx(100 * 8 / 3600 * 2.5)
    assert [cost.money for cost in step_costs(folder, 10, gpus=0.0, price=2.5)] == [None, None]


def test_only_the_newest_steps_are_told_and_the_oldest_of_them_has_its_wall_time(folder: Path) -> None:
    (cost,) = step_costs(folder, 1, gpus=0.0, price=0.0)
    assert (cost.step, cost.wall_s) == (2, 100.0)


def test_a_run_without_history_has_an_empty_timeline(tmp_path: Path) -> None:
    assert timeline(tmp_path, 10.0, None).lanes == []
    assert step_costs(tmp_path, 10, gpus=0.0, price=0.0) == []
