from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from services.monitor.analysis.report import build_report
from services.monitor.history.batch import Batch
from services.monitor.history.fold import Fold
from services.monitor.history.queries import Reader, reading
from services.monitor.history.store import Store
from services.monitor.values.where import ALL, Where
from shared.jobs.document import parse_job
from shared.jobs.record import JobRecord
from shared.messages import Portion, unpack_ints
from tests.monitor.runs import JOB, entries, eval_done, group, step_done, void


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def read(store: Store) -> Reader:
    with reading(store.folder) as reader:
        assert reader is not None
    return Reader(store._db, store.folder)


def series(store: Store) -> list[tuple[object, ...]]:
    return list(read(store).all_points())


def test_a_step_makes_points_of_exactly_its_groups(store: Store) -> None:
    fold = Fold(store)
    fold.apply(Batch(train=entries(group(0, (1.0, 0.0)), group(1, (1.0, 1.0)), group(2, (0.0, 0.0)))))
    fold.apply(Batch(events=[(step_done(1, [0, 1]), 1)]))
    assert read(store).points("reward", ALL) == [(1, 100.0, 0.75)]
    assert read(store).points("reward", Where(source="sums")) == [(1, 100.0, 0.75)]
    assert read(store).points("learner/grad_norm", ALL) == [(1, 100.0, 0.5)]
    assert read(store).points("learner/bad", ALL) == []  # not a number: no point


def test_published_is_trained_plus_void_plus_what_is_on_its_way(store: Store) -> None:
    fold = Fold(store)
    fold.apply(Batch(train=entries(group(0), void(1), group(2), group(3))))
    fold.apply(Batch(events=[(step_done(1, [0, 2], [1]), 1)]))
    assert read(store).train_counts() == {"sums": {"published": 4, "trained": 2, "void": 1, "duplicates": 0}}
    assert read(store).void_reasons() == {"sums": {"bad-sample": 1}}


def test_the_record_with_the_lowest_sequence_wins_and_the_others_are_counted(store: Store) -> None:
    fold = Fold(store)
    fold.apply(Batch(train=entries(group(0, (1.0, 1.0)), group(0, (0.0, 0.0)), void(0, "redelivered", stage="reward"))))
    fold.apply(Batch(events=[(step_done(1, [0]), 1)]))
    assert read(store).points("reward", ALL) == [(1, 100.0, 1.0)]
    assert read(store).train_counts()["sums"] == {"published": 1, "trained": 1, "void": 0, "duplicates": 2}


def test_a_step_waits_for_groups_that_are_not_read_yet_and_holds_back_what_follows(store: Store) -> None:
    fold = Fold(store)
    fold.apply(Batch(train=entries(group(0)), events=[(step_done(1, [0, 1]), 1), (step_done(2, [2]), 2)]))
    assert fold.waiting == 2
    assert store.sequence("events") == 0
    fold.apply(Batch(train=entries(group(1), group(2), first=2)))
    assert fold.waiting == 0
    assert store.sequence("events") == 2
    assert [step["step"] for step in read(store).steps()] == [1, 2]


def test_a_scored_group_that_the_learner_gives_up_is_void_and_no_duplicate(store: Store) -> None:
    fold = Fold(store)
    fold.apply(Batch(train=entries(group(0), group(1), void(1, "stopped", stage="learner"))))
    assert read(store).train_counts()["sums"] == {"published": 2, "trained": 0, "void": 1, "duplicates": 0}
    assert read(store).void_reasons() == {"sums": {"stopped": 1}}


def test_a_step_waits_for_the_word_on_why_a_group_is_void(store: Store) -> None:
    fold = Fold(store)
    fold.apply(Batch(train=entries(group(0), group(1)), events=[(step_done(1, [0], [1]), 1)]))
    assert fold.waiting == 1
    fold.apply(Batch(train=entries(void(1, "filtered", stage="learner"), first=3)))
    assert fold.waiting == 0
    assert read(store).void_reasons() == {"sums": {"filtered": 1}}
    assert read(store).points("void/filtered", ALL) == [(1, 100.0, 1.0)]


def test_at_the_end_a_step_no_longer_waits(store: Store) -> None:
    fold = Fold(store)
    fold.apply(Batch(train=entries(group(0), group(1)), events=[(step_done(1, [0], [1, 2]), 1)]))
    fold.release()
    assert (fold.waiting, read(store).last_step()) == (0, 1)
    assert read(store).void_reasons() == {"sums": {"filtered": 1}, "": {"unknown": 1}}


def test_a_group_that_comes_after_the_learner_gave_it_up_is_late_and_no_duplicate(store: Store) -> None:
    fold = Fold(store)
    fold.apply(Batch(train=entries(void(0, "stopped", stage="learner"), group(0))))
    assert read(store).train_counts()["sums"] == {"published": 1, "trained": 0, "void": 1, "duplicates": 0}


def test_a_step_told_twice_counts_once(store: Store) -> None:
    fold = Fold(store)
    fold.apply(Batch(train=entries(group(0)), events=[(step_done(1, [0]), 1), (step_done(1, [0]), 2)]))
    assert len(read(store).steps()) == 1
    assert read(store).points("groups", ALL) == [(1, 100.0, 1.0)]


def test_an_evaluation_is_made_when_every_group_is_there_and_errors_are_no_zeros(store: Store) -> None:
    fold = Fold(store)
    first = group(0, (1.0,), kind="eval", version=0)
    fold.apply(Batch(eval=entries(first, void(1, kind="eval", version=0)), events=[(eval_done(0, 3, 1), 1)]))
    assert read(store).evaluations() == []
    fold.apply(Batch(eval=entries(group(2, (None,), kind="eval", version=0), first=3)))
    assert [done["version"] for done in read(store).evaluations()] == [0]
    assert read(store).values_at("eval/reward", 0) == {"sums": 1.0}
    assert read(store).values_at("eval/error_rate", 0) == {"sums": 0.5}
    assert read(store).train_counts() == {}  # outside of the invariant


def test_an_evaluation_is_told_with_the_incarnation_of_its_weights(store: Store) -> None:
    fold = Fold(store)
    for version, incarnation in ((0, 0), (3, 1)):
        done = msgspec.structs.replace(eval_done(version, 1), incarnation=incarnation)
        fold.apply(
            Batch(eval=entries(group(0, kind="eval", version=version), first=version + 1), events=[(done, version + 1)])
        )
    spec = parse_job({"model": "none", "total_steps": 6, "data": {"train": ["x"]}})
    report = build_report(JobRecord(id=JOB, spec=spec, state="running", created_at=0.0), read(store), 0)
    assert [(one["version"], one["incarnation"]) for one in report["evaluations"]] == [(0, 0), (3, 1)]


def test_samples_hold_every_group_of_a_step_once(store: Store) -> None:
    fold = Fold(store)
    fold.apply(Batch(train=entries(group(0), void(1), group(2, weights=3), group(9))))
    fold.apply(Batch(events=[(step_done(1, [0, 2], [1], stale=1), 1)]))
    rows = pq.read_table(store.folder / "samples" / "train-000001.parquet").to_pylist()
    assert [(row["ordinal"], row["state"], row["step"]) for row in rows] == [
        (0, "trained", 1),
        (1, "void", 1),
        (2, "trained", 1),
    ]
    assert rows[1]["reason"] == "bad-sample"
    assert rows[2]["staleness"] == 1
    completion = rows[2]["completions"][0]
    assert completion["versions"] == [{"version": 3, "tokens": 3}]
    assert (completion["reward"], completion["advantage"]) == (1.0, 1.0)
    assert unpack_ints(completion["token_ids"]).tolist() == [0, 1, 2]
    assert rows[2]["completions"][1]["advantage"] is None  # masked
    fold.write_rest()
    rest = pq.read_table(store.folder / "samples" / "train-rest.parquet").to_pylist()
    assert [row["ordinal"] for row in rest] == [9]


def test_a_store_that_kept_facts_of_waiting_groups_goes_on(store: Store) -> None:
    Fold(store).apply(Batch(train=entries(group(0))))
    store._db.execute("ALTER TABLE waiting ADD COLUMN facts BLOB NOT NULL DEFAULT x'00'")
    store._db.execute("PRAGMA user_version=2")
    store.close()
    again = Store(store.folder)
    Fold(again).apply(Batch(train=entries(group(1), first=2), events=[(step_done(1, [0, 1]), 1)]))
    assert read(again).points("groups", ALL) == [(1, 100.0, 2.0)]


def test_a_store_that_knew_no_portions_goes_on(store: Store) -> None:
    Fold(store).apply(Batch(train=entries(group(0)), events=[(step_done(1, [0]), 1)]))
    store._db.execute("ALTER TABLE steps DROP COLUMN portions")
    store._db.execute("PRAGMA user_version=3")
    store.close()
    again = Store(store.folder)
    assert read(again).steps()[0]["portions"] == []
    done = step_done(2, [1], portions=[Portion([1], 7.0, 8.0)])
    Fold(again).apply(Batch(train=entries(group(1), first=2), events=[(done, 2)]))
    assert [len(step["portions"]) for step in read(again).steps()] == [0, 1]


def test_a_batch_that_fails_leaves_nothing_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = Fold(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("services.monitor.history.fold.write_part", full)
        with pytest.raises(OSError):
            fold.apply(Batch(train=entries(group(0)), events=[(step_done(1, [0]), 1)]))
    assert (store.sequence("train"), store.sequence("events")) == (0, 0)
    assert series(store) == []
    fold.apply(Batch(train=entries(group(0)), events=[(step_done(1, [0]), 1)]))
    assert read(store).points("groups", ALL) == [(1, 100.0, 1.0)]


def test_what_is_read_again_after_a_kill_changes_nothing(store: Store) -> None:
    batch = Batch(train=entries(group(0), group(0), void(1)), events=[(step_done(1, [0], [1]), 1)])
    Fold(store).apply(batch)
    once = series(store), read(store).train_counts()
    Fold(store).apply(batch)
    assert (series(store), read(store).train_counts()) == once
