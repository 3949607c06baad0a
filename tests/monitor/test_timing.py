from pathlib import Path

import pytest

from services.monitor.analysis.report import build_report
from services.monitor.analysis.timing import Union, time_shares, time_sums
from services.monitor.history.batch import Batch
from services.monitor.history.fold import Fold
from services.monitor.history.queries import Interval, reading
from services.monitor.history.store import Store
from shared.jobs.record import JobRecord
from shared.jobs.spec import Data, JobSpec
from shared.messages import BlobRef, EngineOpened, Event, Portion, WeightsLoaded, WeightsPublished, WeightsSync
from tests.monitor.runs import JOB, entries, eval_done, group, step_done


def test_intervals_that_touch_or_overlap_are_one() -> None:
    union = Union()
    for interval in (Interval(0, 2), Interval(1, 3), Interval(1, 2), Interval(3, 4), Interval(6, 6), Interval(8, 9)):
        union.add(interval)
    assert (union.begin, union.end, union.seconds) == (0, 9, 5)


def test_sums_and_shares_of_a_run_worked_by_hand(tmp_path: Path) -> None:
    # Group k is generated from 10 + k to 12 + k and scored from 12.5 + k to 13 + k; the step ends at 100 and takes 1 s.
    store = Store(tmp_path)
    held_out = entries(group(50, (1.0,), kind="eval", version=0))  # generated from 60 to 62, scored from 62.5 to 63
    train = entries(group(0), group(1), group(40))
    Fold(store).apply(Batch(train, held_out, [(eval_done(0, 1), 1), (step_done(1, [0, 1, 40]), 2)]))
    with reading(tmp_path) as reader:
        assert reader is not None
        sums, shares = time_sums(reader), time_shares(reader)
    # One replica: busy from 10 to 13 and from 50 to 52, so 37 s of 42 without a group.
    assert sums == {"learner_wait_s": 0.25, "learner_step_s": 1.0, "weight_sync_s": 0.125, "rollout_wait_s": 37.0}
    # From 10 to 100, less 2 s of evaluation: 88 s. Work: 3 + 2 of generation, 1 of update.
    # Scoring outside of it: 13.5 to 14 and 52.5 to 53; 12.5 to 13 lies beside generation.
    wall = 88.0
    assert shares["work"] == pytest.approx(6 / wall)
    assert shares["scoring"] == pytest.approx(1 / wall)
    assert shares["overhead"] == pytest.approx(1 - 6 / wall)
    assert shares["other"] == pytest.approx(1 - 7 / wall)


def test_portions_are_work_and_beside_generation_they_count_once(tmp_path: Path) -> None:
    # Group 86 is generated from 96 to 98; a portion is computed from 97 to 98.5, the rest from 98.875 to 99.875.
    portions = [Portion([86], 97.0, 98.5)]
    Fold(Store(tmp_path)).apply(Batch(entries(group(86)), events=[(step_done(1, [86], portions=portions), 1)]))
    with reading(tmp_path) as reader:
        assert reader is not None
        shares = time_shares(reader)
        assert [tuple(one) for one in reader.update_times()] == [(97.0, 98.5), (98.875, 99.875)]
        assert reader.steps()[0]["portions"] == [{"ordinals": [86], "started_at": 97.0, "finished_at": 98.5}]
    wall = 4.0
    assert shares["work"] == pytest.approx(3.5 / wall)
    assert shares["update"] == pytest.approx(2.5 / wall)


def test_an_update_lies_before_its_version_is_stored_and_the_parts_of_the_wall_time_add_up_to_all_of_it(
    tmp_path: Path,
) -> None:
    # Group 86 is generated from 96 to 98 and scored from 98.5 to 99. The step ends at 100: stored from 99.875 on,
    # updated from 98.875 on, of which 0.125 s lie beside the scoring.
    Fold(Store(tmp_path)).apply(Batch(train=entries(group(86)), events=[(step_done(1, [86]), 1)]))
    with reading(tmp_path) as reader:
        assert reader is not None
        shares = time_shares(reader)
    wall = 4.0
    assert shares["generation"] == pytest.approx(2 / wall)
    assert shares["update"] == pytest.approx(1 / wall)
    assert shares["scoring"] == pytest.approx(0.375 / wall)
    assert shares["other"] == pytest.approx(0.625 / wall)  # 0.5 on the way to the verifier, 0.125 to store the version
    assert shares["work"] + shares["scoring"] + shares["other"] == pytest.approx(1.0)


def test_the_report_names_what_each_replica_computes_with_as_it_was_last_opened(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def opened(service: str, at: float, self_check: float) -> EngineOpened:
        facts: dict[str, str | int | float] = {"device": "cpu", "self_check": self_check}
        return EngineOpened(job=JOB, service=service, replica=f"{service}/1", facts=facts, opened_at=at)

    events = [opened("learner", 1.0, 0.5), opened("rollout", 2.0, 1e-6), opened("learner", 3.0, 2e-6)]
    Fold(store).apply(Batch(events=[(event, number) for number, event in enumerate(events, 1)]))
    spec = JobSpec(model="m", total_steps=2, data=Data(train=["x"]))
    with reading(tmp_path) as reader:
        report = build_report(JobRecord(id=JOB, spec=spec, state="running", created_at=0.0), reader, 0)
    assert report["engines"] == [
        {"service": "rollout", "replica": "rollout/1", "device": "cpu", "self_check": 1e-6, "opened_at": 2.0},
        {"service": "learner", "replica": "learner/1", "device": "cpu", "self_check": 2e-6, "opened_at": 3.0},
    ]


def test_the_report_adds_up_what_the_versions_of_the_weights_took(tmp_path: Path) -> None:
    """A version that is announced again, when its window widens, counts once."""
    store = Store(tmp_path)

    def published(version: int, sent: int) -> WeightsPublished:
        return WeightsPublished(
            job=JOB, version=version, incarnation=0, cursor=0, window_end=4, max_staleness=0, total_steps=2,
            manifest=BlobRef(digest="d" * 64, size=9), digest="d", published_at=1.0 + version,
            sync=WeightsSync(sent_bytes=sent, full_bytes=1000, export_s=0.25, publish_s=0.5),
        )  # fmt: skip

    def loaded(replica: str, version: int, fetched: int) -> WeightsLoaded:
        return WeightsLoaded(
            job=JOB, replica=replica, version=version, fetched_bytes=fetched, load_s=0.5, stall_s=0.125, kept=1,
            loaded_at=1.5 + version + (replica == "rollout/2"),
        )  # fmt: skip

    events: list[Event] = [published(0, 1000), published(1, 20), published(1, 20)]
    events += [loaded("rollout/1", 0, 1000), loaded("rollout/2", 0, 0), loaded("rollout/1", 1, 20)]
    Fold(store).apply(Batch(events=[(event, number) for number, event in enumerate(events, 1)]))
    spec = JobSpec(model="m", total_steps=2, data=Data(train=["x"]))
    with reading(tmp_path) as reader:
        report = build_report(JobRecord(id=JOB, spec=spec, state="running", created_at=0.0), reader, 0)
    assert report["weights"] == {
        "sent_bytes": 1020, "full_bytes": 2000, "stall_s": 0.5, "publish_s": 1.0,
        "fetched_bytes": 1020, "load_s": 1.5, "load_stall_s": 0.375,
    }  # fmt: skip
