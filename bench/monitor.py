"""The monitor's speed and memory: `python -m bench.monitor` prints JSON lines.

What it takes in on one core: groups of 8 completions, of 40 tokens and of about 105 KB, from records as they come over
the wire to committed series, counters and sample files; memory after a quarter and at the end. `catching up`: a batch
holds whole steps, as after an outage; `live`: groups come before their step and wait on the shelf. What it answers:
every route of a run of 10^6 points and 50,000 groups, as ratios to the same route of smaller runs.
"""

import json
import random
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import psutil

from bench.monitor_routes import measure_routes
from services.monitor.history.batch import Batch
from services.monitor.history.fold import Fold
from services.monitor.history.store import Store
from shared.bus.port import JournalEntry
from shared.messages import Completion, Event, Scored, StepDone, decode, encode, pack_floats, pack_ints
from shared.runtime.collector import ignore_what_is_there
from tests.monitor import runs

GROUPS_A_STEP, COMPLETIONS, STEPS = 64, 8, 64
TEXT = (
    "so the sum of the first two angles is four and the other one, which lies at the base, is a right angle; "
    "the chart shows a rise of 3.5 percent therefore the answer must be \\boxed{42}"
)
REFLECTING = 0.25
"""Share of completions that hold a reflection word."""


def main() -> None:
    ignore_what_is_there()
    for tokens in (40, 1090):
        for is_live in (False, True):
            report(measure(tokens, is_live=is_live))
    for line in measure_routes():
        report(line)


def report(numbers: dict[str, object]) -> None:
    sys.stdout.write(json.dumps({"bench": "monitor", **numbers}) + "\n")


def measure(tokens: int, *, is_live: bool = False) -> dict[str, object]:
    """CPU seconds of the fold, and of decoding the records first."""
    records = [encode(group(ordinal, tokens)) for ordinal in range(GROUPS_A_STEP * 4)]
    decoding = folding = 0.0
    memory = []
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        fold = Fold(store)
        for step in range(STEPS):
            began = time.process_time()
            bodies = records[step % 4 * GROUPS_A_STEP :][:GROUPS_A_STEP]
            decoded = [decode(body) for body in bodies]
            decoding += time.process_time() - began
            groups = [renumbered(one, step * GROUPS_A_STEP + k) for k, one in enumerate(decoded)]  # type: ignore[arg-type]
            whole = batch(step, groups, bodies)
            batches = [Batch(train=whole.train), Batch(events=whole.events)] if is_live else [whole]
            began = time.process_time()
            for one in batches:
                fold.apply(one)
            folding += time.process_time() - began
            memory.append(psutil.Process().memory_info().rss)
        store.close()
    count = GROUPS_A_STEP * STEPS
    return {
        "what": "groups per second of one core",
        "mode": "live" if is_live else "catching up",
        "tokens": tokens,
        "group_kb": round(len(records[0]) / 1024),
        "completions": COMPLETIONS,
        "value": round(count / (decoding + folding)),
        "reach": 2000,
        "fold_only": round(count / folding),
        "cpu_us_a_group": round((decoding + folding) / count * 1e6),
        "memory_growth": round(memory[-1] / memory[STEPS // 4] - 1, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def group(ordinal: int, tokens: int) -> Scored:
    """A scored group with tokens and log-probs as a model gives them."""
    noise, numbers = random.Random(ordinal), np.random.default_rng(ordinal)
    texts = [" ".join(noise.choices(TEXT.split(), k=int(tokens * 0.8))) for _ in range(COMPLETIONS)]
    texts = [f"{text} Wait, let me check again." if noise.random() < REFLECTING else text for text in texts]
    rewards = [((ordinal + k) % 5) / 4 for k in range(COMPLETIONS)]
    source = f"source-{ordinal % 8}"
    made = runs.group(ordinal, rewards, source=source, task=source, texts=texts)
    completions = [
        Completion(
            token_ids=pack_ints(numbers.zipf(1.3, tokens).clip(0, 150_000)),
            log_probs=pack_floats(-numbers.exponential(0.3, tokens)),
            text=text,
            finish="stop",
            versions=[(0, tokens)],
        )
        for text in texts
    ]
    return msgspec.structs.replace(made, group=msgspec.structs.replace(made.group, completions=completions))


def renumbered(scored: Scored, ordinal: int) -> Scored:
    prompt = msgspec.structs.replace(scored.prompt, ordinal=ordinal)
    return msgspec.structs.replace(scored, group=msgspec.structs.replace(scored.group, prompt=prompt))


def batch(step: int, groups: list[Scored], bodies: list[bytes]) -> Batch:
    first = step * GROUPS_A_STEP
    pairs = zip(groups, bodies, strict=True)
    entries = [JournalEntry(first + k + 1, one, body=body) for k, (one, body) in enumerate(pairs)]
    done: list[tuple[Event, int]] = [(step_done(step + 1, range(first, first + GROUPS_A_STEP)), step + 1)]
    return Batch(train=entries, events=done)


def step_done(step: int, ordinals: range) -> StepDone:
    advantages = {ordinal: [0.5] * COMPLETIONS for ordinal in ordinals}
    return msgspec.structs.replace(runs.step_done(step, list(ordinals)), advantages=advantages)


if __name__ == "__main__":
    main()
