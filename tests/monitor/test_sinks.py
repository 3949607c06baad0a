from pathlib import Path

import pytest

from services.monitor.exports.sinks import Sinks, missing_sinks
from services.monitor.history.catalog import describe, v_triune_name
from services.monitor.history.fold import Batch, Fold
from services.monitor.history.series import ALL, Where
from services.monitor.history.store import Store
from tests.monitor.runs import entries, eval_done, group, step_done


@pytest.mark.parametrize(
    ("name", "where", "theirs"),
    [
        ("reward", Where(source="mm_math"), "rews_final_reward/mm_math"),
        ("reward", ALL, "rews/final_reward"),
        ("part/pure_map_score", Where(source="v3det"), "rews_pure_map_score_reward/v3det"),
        ("response_length_wrong", Where(source="mm_math"), "response_length_mm_math/mean_wrong_length"),
        ("truncation", ALL, "response_length/length_clip_ratio"),
        ("reflection_words/wait", Where(source="mm_math"), "reflection_words_mm_math/wait"),
        ("eval/accuracy", Where(source="mm_math"), "test_accuracy_reward/mm_math"),
        ("learner/entropy", ALL, "actor/entropy"),
        ("learner/layer_grad_norm/model.layers.5", ALL, "layer_grad_norm/model.layers.5"),
        ("staleness", Where(source="mm_math"), "staleness/mm_math"),
    ],
)
def test_series_have_v_triunes_names_where_it_has_them(name: str, where: Where, theirs: str) -> None:
    assert v_triune_name(name, where) == theirs


def test_every_series_of_a_run_is_described(tmp_path: Path) -> None:
    store = filled(tmp_path)
    names = {row["name"] for row in store._db.execute("SELECT name FROM series")}
    assert names
    assert all(describe(name).description for name in names)


def filled(folder: Path) -> Store:
    store = Store(folder)
    held_out = entries(group(0, (1.0,), kind="eval", version=0))
    events = [(eval_done(0, 1), 1), (step_done(1, [0]), 2), (step_done(2, [1]), 3)]
    Fold(store).apply(Batch(entries(group(0, (1.0, 0.0)), group(1, (1.0, 1.0))), held_out, events))
    return store


def remember(store: Store, facts: dict[str, str]) -> None:
    with store.transaction():
        for key, value in facts.items():
            store.set_meta(key, value)


def test_a_sink_that_is_not_installed_is_named_at_submission() -> None:
    assert missing_sinks([]) == []
    assert missing_sinks(["no_such_sink"])[0].endswith("pip install no_such_sink")


def test_tensorboard_gets_every_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store = filled(tmp_path)
    sinks = Sinks(tmp_path, "demo", ["tensorboard"])
    remember(store, sinks.feed())
    assert sinks.feed() == {}  # nothing is new
    sinks.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    steps = [event.step for event in events.Tensors("rews_final_reward/sums")]
    assert steps == [1, 2]
    assert [event.step for event in events.Tensors("test_final_reward/sums")] == [0]


def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    store = filled(tmp_path)
    sinks = Sinks(tmp_path, "demo", ["wandb"])
    remember(store, sinks.feed())
    sinks.close()
    assert list((tmp_path / "wandb").glob("offline-run-*-demo/run-demo.wandb"))
