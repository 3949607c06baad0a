from pathlib import Path

from services.monitor.analysis.browse import POINTS_IN_AN_ANSWER, find_series
from services.monitor.history.queries import reading
from services.monitor.history.store import Store
from services.monitor.values.where import ALL, Where


def filled(folder: Path, values: dict[int, float], times: dict[int, float] | None = None) -> None:
    store = Store(folder)
    with store.transaction():
        for step, value in values.items():
            store.add_points(step, (times or {}).get(step, float(step)), {ALL: {"reward": value}})
    store.close()


def test_a_thinned_curve_keeps_every_spike_and_both_ends(tmp_path: Path) -> None:
    values = {step: 0.5 for step in range(10_000)} | {4_321: 9.0, 7_654: -9.0}
    filled(tmp_path, values)
    (series,) = find_series(tmp_path, ("reward", "", ""), (None, None), 100)
    kept = {point.step: point.value for point in series.points}
    assert len(series.points) <= 100
    assert (kept[4_321], kept[7_654]) == (9.0, -9.0)
    assert min(kept) < 200 and max(kept) >= 9_800
    assert [point.step for point in series.points] == sorted(kept)


def test_a_short_curve_is_left_as_it_is_and_a_part_of_one_can_be_asked_for(tmp_path: Path) -> None:
    filled(tmp_path, {step: float(step) for step in range(50)})
    (series,) = find_series(tmp_path, ("reward", "", ""), (10, 12), 100)
    assert [(point.step, point.value) for point in series.points] == [(10, 10.0), (11, 11.0), (12, 12.0)]


def test_many_points_of_one_step_are_thinned_by_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.transaction():
        for second in range(1_000):
            store.add_points(7, float(second), {ALL: {"queue/prompts": float(second % 10)}})
    with reading(tmp_path) as reader:
        assert reader is not None
        points = reader.points("queue/prompts", ALL, 100)
    assert 50 <= len(points) <= 100


def test_all_curves_of_an_answer_together_are_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.transaction():
        for step in range(8_000):
            values = {Where(source=f"s{source}"): {"reward": step % 7.0} for source in range(30)}
            store.add_points(step, float(step), values)
    found = find_series(tmp_path, (None, None, None), (None, None), 20_000)
    assert len(found) == 30
    assert sum(len(series.points) for series in found) <= POINTS_IN_AN_ANSWER
