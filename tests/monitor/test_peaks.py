"""Curves thinned from stretches that the store has made beforehand."""

import sqlite3
from pathlib import Path

import pytest

from services.monitor.history.batch import Batch
from services.monitor.history.fold import Fold
from services.monitor.history.imports import Place, take_back
from services.monitor.history.peaks import Segment, level_for, segments
from services.monitor.history.queries import Reader, reading
from services.monitor.history.schema import STORE_NAME
from services.monitor.history.store import Store
from services.monitor.values.where import ALL
from tests.monitor.runs import entries, group, step_done


def test_steps_are_covered_by_whole_stretches_and_at_their_ends_by_finer_ones() -> None:
    assert list(segments(10, 600, 3, past=10_000)) == [
        Segment(0, 10, 16), Segment(1, 16, 64), Segment(2, 64, 256), Segment(3, 256, 512),
        Segment(2, 512, 576), Segment(1, 576, 592), Segment(0, 592, 600),
    ]  # fmt: skip
    assert list(segments(0, 600, 3, past=288)) == [Segment(3, 0, 256), Segment(1, 256, 288), Segment(0, 288, 600)]
    assert list(segments(3, 3, 2, past=288)) == []
    assert [level_for(width) for width in (0.1, 15.9, 16, 63, 64, 255, 256, 1e9)] == [0, 0, 1, 1, 2, 2, 3, 8]


def add(store: Store, name: str, values: dict[int, float]) -> None:
    with store.transaction():
        for step, value in values.items():
            store.add_points(step, float(step), {ALL: {name: value}})


def drawn(folder: Path, name: str, limit: int, steps: tuple[int | None, int | None] = (None, None)) -> dict[int, float]:
    with reading(folder) as reader:
        assert reader is not None
        ((number, *_),) = reader.find_series(name, "", "")
        points = reader.thinned(number, steps, limit)
    assert len(points) <= limit
    assert points == sorted(points)
    return {step: value for step, _, value in points}


def spikes(kept: dict[int, float]) -> dict[int, float]:
    return {step: value for step, value in kept.items() if value != 0.5}


def test_every_spike_stays_wherever_it_lies_and_however_late_it_came(tmp_path: Path) -> None:
    store = Store(tmp_path)
    flat = {step: 0.5 for step in range(5_000)}
    add(store, "reward", flat | {0: 9.0, 15: 8.0, 16: 7.0, 777: -9.0, 4_990: 6.0, 4_999: -6.0})
    add(store, "reward", {1_234: 5.0, 4_998: -5.0})  # an evaluation that is told when others are over
    assert spikes(drawn(tmp_path, "reward", 60)) == {
        0: 9.0, 777: -9.0, 1_234: 5.0, 4_990: 6.0, 4_999: -6.0,
    }  # fmt: skip
    # Two points each of 30 stretches: 8.0 and 7.0 lie in that of 9.0, -5.0 in that of -6.0.
    assert spikes(drawn(tmp_path, "reward", 60, (10, 4_998))) == {
        15: 8.0, 777: -9.0, 1_234: 5.0, 4_990: 6.0, 4_998: -5.0,
    }  # fmt: skip
    add(store, "reward", {777: 0.5})  # told again, with another value
    assert 777 not in spikes(drawn(tmp_path, "reward", 60))


def test_a_curve_costs_what_is_drawn_of_it_and_not_what_is_stored(tmp_path: Path) -> None:
    for length in (4_000, 40_000):
        store = Store(tmp_path / str(length))
        add(store, "reward", {step: step % 97 / 97 for step in range(length)})
        store.close()
    short, long = (work_of(tmp_path / name, 200) for name in ("4000", "40000"))
    assert long < 2 * short
    assert work_of(tmp_path / "40000", 40_000) > 10 * long


def work_of(folder: Path, limit: int) -> int:
    """What reading a curve takes, in hundreds of SQLite's own instructions."""
    with reading(folder) as reader:
        assert reader is not None
        ticks = 0

        def tick() -> int:
            nonlocal ticks
            ticks += 1
            return 0

        database: sqlite3.Connection = reader._db
        database.set_progress_handler(tick, 100)
        reader.points("reward", ALL, limit)
        database.set_progress_handler(None, 0)
    return max(1, ticks)


def test_a_transaction_that_is_taken_back_takes_its_stretches_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "reward", {step: 0.5 for step in range(10)})
    with pytest.raises(RuntimeError), store.transaction():
        for step in range(10, 400):
            store.add_points(step, float(step), {ALL: {"reward": 9.0}})
        raise RuntimeError
    add(store, "reward", {step: 0.5 for step in range(10, 400)})
    assert spikes(drawn(tmp_path, "reward", 20)) == {}


def test_a_full_disk_is_told_as_such_and_leaves_no_trace_of_what_it_took_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "reward", {0: 0.5})
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="disk is full"), store.transaction():
        for step in range(10_000):
            store.add_points(step, float(step), {ALL: {"fresh": 9.0}})
    store._db.execute("PRAGMA max_page_count = 1000000")
    add(store, "other", {0: 0.25})
    add(store, "fresh", {0: 1.0})
    assert drawn(tmp_path, "fresh", 20) == {0: 1.0}
    assert drawn(tmp_path, "other", 20) == {0: 0.25}


def run(folder: Path, steps: int) -> Store:
    store = Store(folder)
    fold = Fold(store)
    for step in range(1, steps + 1):
        done = step_done(step, [step], stale=step % 3)
        fold.apply(Batch(train=entries(group(step, (step % 5 / 4,)), first=step), events=[(done, step)]))
    return store


def facts(folder: Path) -> tuple[object, ...]:
    with reading(folder) as reader:
        assert reader is not None
        return reader.totals(), reader.points("reward", ALL, 8), stored(reader)


def stored(reader: Reader) -> list[tuple[object, ...]]:
    return [tuple(row) for row in reader._db.execute("SELECT * FROM peaks ORDER BY series, level, step, time")]


def test_a_store_without_stretches_and_totals_gets_them_when_it_is_opened(tmp_path: Path) -> None:
    run(tmp_path, 50).close()
    made = facts(tmp_path)
    with sqlite3.connect(tmp_path / STORE_NAME) as database:
        database.executescript("DROP TABLE peaks; DROP TABLE totals; DELETE FROM meta WHERE key = 'peaks';")
        database.execute("PRAGMA user_version=1")
    database.close()
    assert facts(tmp_path) == made
    (totals, *_) = made
    assert totals["staleness"] == (50, 51, 2)  # type: ignore[index] — 17 times 1, 17 times 2


def test_a_run_that_is_taken_back_to_a_checkpoint_has_the_sums_and_stretches_of_what_is_left(tmp_path: Path) -> None:
    run(tmp_path / "whole", 50).close()
    run(tmp_path / "short", 20).close()
    take_back(tmp_path / "whole", Place(step=20, cursor=21))
    take_back(tmp_path / "short", Place(step=20, cursor=21))
    assert facts(tmp_path / "whole") == facts(tmp_path / "short")
