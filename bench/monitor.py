"""How many groups a second the monitor takes in on one core: `python bench/monitor.py` prints JSON lines.

Groups of 8 completions of 40 and of 500 tokens, 64 groups a step, from records as they come over the wire to committed
series, counters and sample files. The last line is about reading: a chart of 10^6 points.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from services.monitor.history.browse import find_series
from services.monitor.history.fold import Batch, Fold
from services.monitor.history.series import ALL
from services.monitor.history.store import Store
from shared.bus.port import JournalEntry
from shared.messages import Event, Scored, StepDone, decode, encode
from tests.monitor import runs

GROUPS_A_STEP, COMPLETIONS, STEPS = 64, 8, 64


def main() -> None:
    for tokens in (40, 500):
        report(measure(tokens))
    report(measure_chart())


def report(numbers: dict[str, object]) -> None:
    sys.stdout.write(json.dumps({"bench": "monitor", **numbers}) + "\n")


def measure(tokens: int) -> dict[str, object]:
    """CPU seconds of the fold, and of decoding the records first."""
    records = [encode(group(ordinal, tokens)) for ordinal in range(GROUPS_A_STEP * STEPS)]
    began = time.process_time()
    decoded = [decode(record) for record in records]
    decoding = time.process_time() - began
    began = time.process_time()
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        fold = Fold(store)
        for batch in batches(decoded):  # type: ignore[arg-type]
            fold.apply(batch)
        store.close()
    folding = time.process_time() - began
    return {
        "what": "groups per second of one core",
        "tokens": tokens,
        "completions": COMPLETIONS,
        "value": round(len(records) / (decoding + folding)),
        "reach": 1000,
        "fold_only": round(len(records) / folding),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def group(ordinal: int, tokens: int) -> Scored:
    text = "so the sum is four and " * (tokens // 6)
    rewards = [((ordinal + k) % 5) / 4 for k in range(COMPLETIONS)]
    source = f"source-{ordinal % 8}"
    return runs.group(
        ordinal, rewards, source=source, task=source, texts=[text] * COMPLETIONS, lengths=[tokens] * COMPLETIONS
    )


def batches(records: list[Scored]) -> Iterator[Batch]:
    for step in range(STEPS):
        first = step * GROUPS_A_STEP
        entries = [JournalEntry(first + k + 1, records[first + k]) for k in range(GROUPS_A_STEP)]
        done: list[tuple[Event, int]] = [(step_done(step + 1, range(first, first + GROUPS_A_STEP)), step + 1)]
        yield Batch(train=entries, events=done)


def step_done(step: int, ordinals: range) -> StepDone:
    advantages = {ordinal: [0.5] * COMPLETIONS for ordinal in ordinals}
    return msgspec.structs.replace(runs.step_done(step, list(ordinals)), advantages=advantages)


def measure_chart() -> dict[str, object]:
    """Seconds to answer with a chart of 600 points from a series of 10^6."""
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        with store.transaction():
            for step in range(1_000_000):
                store.add_points(step, float(step), {ALL: {"reward": step % 1000 / 1000}})
        began = time.perf_counter()
        (series,) = find_series(Path(folder), ("reward", "", ""), (None, None), 600)
        seconds = time.perf_counter() - began
        store.close()
    return {"what": "seconds for a chart of 10^6 points", "points": len(series.points), "value": round(seconds, 3)}


if __name__ == "__main__":
    main()
