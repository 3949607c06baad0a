import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.monitor.config import MonitorConfig
from services.monitor.exports.feeding import Feeds
from services.monitor.exports.sinks import missing_sinks
from services.monitor.history.batch import Batch
from services.monitor.history.fold import Fold
from services.monitor.history.store import Store
from services.monitor.values.catalog import describe, v_triune_name
from services.monitor.values.where import ALL, Where
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


ROOT = Path(__file__).parents[2]


def filled(folder: Path) -> Store:
    store = Store(folder)
    held_out = entries(group(0, (1.0,), kind="eval", version=0))
    events = [(eval_done(0, 1), 1), (step_done(1, [0]), 2), (step_done(2, [1]), 3)]
    Fold(store).apply(Batch(entries(group(0, (1.0, 0.0)), group(1, (1.0, 1.0))), held_out, events))
    return store


async def feed(folder: Path, *names: str) -> dict[str, str]:
    """Give the sinks all that is new, and close them; the facts that they leave."""
    feeds = Feeds(folder, "demo", names, MonitorConfig())
    feeds.end()
    await feeds.ended(120.0)
    return feeds.fed


def remember(store: Store, facts: dict[str, str]) -> None:
    with store.transaction():
        for key, value in facts.items():
            store.set_meta(key, value)


def test_a_sink_that_is_not_installed_is_named_at_submission() -> None:
    assert missing_sinks([]) == []
    assert missing_sinks(["no_such_sink"])[0].endswith("pip install no_such_sink")


async def test_tensorboard_gets_every_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store = filled(tmp_path)
    remember(store, await feed(tmp_path, "tensorboard"))
    assert await feed(tmp_path, "tensorboard") == {}  # nothing is new
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    steps = [event.step for event in events.Tensors("rews_final_reward/sums")]
    assert steps == [1, 2]
    assert [event.step for event in events.Tensors("test_final_reward/sums")] == [0]


def said_by(script: str, folder: Path, **variables: str) -> Any:
    """The JSON that `script` prints first, in a process of its own: these libraries keep their stores open for life."""
    env = {**os.environ, "HOME": str(folder), **variables}
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[0])


MLFLOW = """
import asyncio, json, sys
from pathlib import Path
from services.monitor.history.store import Store
from tests.monitor.test_sinks import feed
folder = Path(sys.argv[1])
for known in ("0", "1"):  # the second monitor begins after one that was killed before it noted the last step
    store = Store(folder)
    with store.transaction():
        store.set_meta("sinks.mlflow.step", known)
    asyncio.run(feed(folder, "mlflow"))
    store.close()
import mlflow
client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
runs = client.search_runs([client.get_experiment_by_name("triune").experiment_id])
print(json.dumps([[run.info.run_name, run.info.status, run.data.tags["triune.job"], *(
    [[one.step, one.value, one.timestamp] for one in client.get_metric_history(run.info.run_id, name)]
    for name in ("rews_final_reward/sums", "test_final_reward/sums")
)] for run in runs]))
"""


def test_mlflow_has_one_run_a_job_with_every_step_also_when_a_monitor_begins_anew(tmp_path: Path) -> None:
    for package in ("mlflow", "sqlalchemy", "alembic"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("the extra mlflow is not installed")
    filled(tmp_path).close()
    rewards, held_out = [[1, 0.5, 100_000], [2, 1.0, 200_000]], [[0, 1.0, 13_000]]
    assert said_by(MLFLOW, tmp_path) == [["demo", "FINISHED", "demo", rewards, held_out]]


TRACKIO = """
import asyncio, json, sys
from pathlib import Path
from tests.monitor.test_sinks import feed
asyncio.run(feed(Path(sys.argv[1]), "trackio"))
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs("triune", "demo")))
"""


def test_trackio_has_every_step_in_its_local_store(tmp_path: Path) -> None:
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("the extra trackio is not installed")
    filled(tmp_path).close()
    rows = said_by(TRACKIO, tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    rewards = [(row["step"], row["rews_final_reward/sums"], row["finished_at"]) for row in rows if row["step"] > 0]
    assert rewards == [(1, 0.5, 100.0), (2, 1.0, 200.0)]
    assert [row["test_final_reward/sums"] for row in rows if row["step"] == 0] == [1.0]


async def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    filled(tmp_path)
    await feed(tmp_path, "wandb")
    assert list((tmp_path / "wandb").glob("offline-run-*-demo/run-demo.wandb"))
