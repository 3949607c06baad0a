"""However the streams are cut into batches, and however often the monitor dies, the history is the same."""

import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from services.monitor.history.batch import Batch
from services.monitor.history.fold import Fold
from services.monitor.history.queries import reading
from services.monitor.history.store import Store
from shared.bus.port import JournalEntry
from shared.messages import Event, Message
from tests.monitor import runs

STEPS, GROUPS = 6, 4


def history(seed: int) -> tuple[list[JournalEntry], list[JournalEntry], list[tuple[Event, int]]]:
    """A run's streams: groups in any order within a step, voids, duplicates, an evaluation before and after."""
    rng = random.Random(seed)
    train: list[Message] = []
    events: list[Event] = [runs.eval_done(0, 3)]
    for step in range(1, STEPS + 1):
        ordinals = list(range((step - 1) * GROUPS, step * GROUPS))
        lost = [ordinal for ordinal in ordinals if rng.random() < 0.2]
        trained = [ordinal for ordinal in ordinals if ordinal not in lost]
        rng.shuffle(ordinals)
        for ordinal in ordinals:
            source = ("sums", "shapes")[ordinal % 2]
            rewards = [rng.choice([0.0, 0.5, 1.0, None]) for _ in range(2)]
            train.append(runs.void(ordinal) if ordinal in lost else runs.group(ordinal, rewards, source=source))
            if rng.random() < 0.2:
                train.append(runs.group(ordinal, [0.0, 0.0], source=source))
        events.append(runs.step_done(step, trained, lost))
        if rng.random() < 0.3:
            events.append(runs.step_done(step, trained, lost))
    held_out = [runs.group(k, [1.0], kind="eval", version=version) for version in (0, STEPS) for k in range(3)]
    events.append(runs.eval_done(STEPS, 3))
    return runs.entries(*train), runs.entries(*held_out), [(event, n) for n, event in enumerate(events, start=1)]


def told(folder: Path) -> tuple[object, ...]:
    """All that the store and the sample files say."""
    with reading(folder) as reader:
        assert reader is not None
        files = sorted((folder / "samples").glob("*.parquet"))
        samples = [(file.name, pq.read_table(file).to_pylist()) for file in files]
        return (
            list(reader.all_points()),
            reader.train_counts(),
            reader.void_reasons(),
            reader.evaluations(),
            repr(samples),
        )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(0, 3), st.booleans()), max_size=12),
)
def test_any_batches_and_any_deaths_make_the_same_history(seed: int, cuts: list[tuple[int, int, int, bool]]) -> None:
    train, held_out, events = history(seed)
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        store = Store(Path(one))
        Fold(store).apply(Batch(train, held_out, events))
        store.close()

        store = Store(Path(other))
        fold, at = Fold(store), [0, 0, 0]
        for a, b, c, dies in [*cuts, (len(train), len(held_out), len(events), False)]:
            batch = Batch(train[at[0] : at[0] + a], held_out[at[1] : at[1] + b], events[at[2] : at[2] + c])
            fold.apply(batch)
            at = [at[0] + a, at[1] + b, at[2] + c]
            if dies:  # acks may be behind the commit, events that waited were not committed: both come again
                store.close()
                store = Store(Path(other))
                fold, at = Fold(store), [max(0, at[0] - 3), max(0, at[1] - 3), store.sequence("events")]
        store.close()
        assert told(Path(one)) == told(Path(other))


VICTIM = """
import os, signal, sys
from pathlib import Path
from services.monitor.history import fold as module
from services.monitor.history import samples
from services.monitor.history.batch import Batch
from services.monitor.history.fold import Fold
from services.monitor.history.store import Store
from tests.monitor.test_restarts import history
train, held_out, events = history(7)
folder, after = Path(sys.argv[1]), int(sys.argv[2])
write, count = samples.write_part, 0
def write_then_die(*arguments):
    global count
    write(*arguments)  # the file is in its place, the transaction is not committed
    count += 1
    if count == after:
        os.kill(os.getpid(), signal.SIGKILL)
module.write_part = write_then_die
Fold(Store(folder)).apply(Batch(train[:20], held_out, events[:4]))
Fold(Store(folder)).apply(Batch(train, held_out, events))
"""


def test_kill_9_between_a_sample_file_and_its_commit_neither_doubles_nor_loses(tmp_path: Path) -> None:
    train, held_out, events = history(7)
    store = Store(tmp_path / "whole")
    Fold(store).apply(Batch(train, held_out, events))
    store.close()
    for after in (1, 3, 6):
        folder = tmp_path / f"killed-{after}"
        died = subprocess.run([sys.executable, "-c", VICTIM, str(folder), str(after)], check=False, timeout=60)
        assert died.returncode == -9
        store = Store(folder)
        Fold(store).apply(Batch(train, held_out, events))
        store.close()
        assert told(folder) == told(tmp_path / "whole")
