"""A job's own verifiers, from the row that names one to the journal; the rollout between is played by the test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.data import metrics as data_metrics
from services.data.handlers import Deps as DataDeps
from services.data.handlers import on_job
from services.reward.handlers import Deps, consume
from services.reward.metrics import instruments
from services.reward.scoring import Scorer
from services.reward.workers.pool import Pool
from shared.blobs.store import BlobStore
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.errors import BadData
from shared.jobs.document import parse_job
from shared.jobs.following import ActiveJob
from shared.jobs.record import JobRecord, JobStore
from shared.messages import BlobRef, Prompt, Scored, Voided, WeightsPublished
from shared.samples.plugins import find_plugin, left_out, verifiers_for
from shared.service import Status
from tests.data.rows import math_row, write
from tests.reward.groups import group

_PLUGIN = """
def brief(completion, spec, context):
    return 1.0 if len(completion) < int(spec.ground_truth) else 0.25
"""


@contextlib.asynccontextmanager
async def _running(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _generate(bus: MemoryBus) -> None:
    """A rollout that answers every prompt with two texts."""
    queue = await bus.work("prompts", "job-1", "train")
    while True:
        for delivery in await queue.fetch(4, 1.0):
            prompt = delivery.message
            assert isinstance(prompt, Prompt)
            made = msgspec.structs.replace(group(["short", "a text that is too long"]), prompt=prompt)
            await bus.publish("completions", "job-1", "train", made, f"completed/{prompt.ordinal}")
            await delivery.ack()


async def _records(bus: MemoryBus, count: int) -> list[Scored | Voided]:
    reader = await bus.read_journal("job-1", "train")
    found: list[Scored | Voided] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            found += [entry.message for entry in await reader.fetch(count, 1.0)]
    return found


def _job(tmp_path: Path, plugin: str = "mine.py") -> ActiveJob:
    data = {"train": [str(tmp_path / "train.parquet")], "epochs": 1}
    spec = parse_job({"model": "m", "total_steps": 1, "data": data, "reward": {"plugins": [plugin]}})
    return ActiveJob(JobRecord(id="job-1", spec=spec, state="running", created_at=0.0))


async def test_rows_that_name_a_verifier_of_the_job_s_file_are_scored_by_it(tmp_path: Path) -> None:
    roots = (tmp_path / "rewards",)
    roots[0].mkdir()
    (roots[0] / "mine.py").write_text(_PLUGIN)
    rows = [math_row(0, verifier="brief", ground_truth="10"), math_row(1, verifier="breif")]
    write(tmp_path / "train.parquet", rows)
    bus, job, counters = MemoryBus(MemoryServer()), _job(tmp_path), instruments()
    jobs = JobStore(bus)
    await jobs.create(job.record)
    blobs = BlobStore((tmp_path / "blobs").as_uri())
    data = DataDeps(bus, blobs, jobs, data_metrics.instruments(), Status(), plugin_roots=roots)
    window = WeightsPublished(
        job="job-1", version=0, incarnation=0, cursor=0, window_end=2, max_staleness=0, total_steps=1,
        manifest=BlobRef(digest="d" * 64, size=0), digest="",
    )  # fmt: skip
    await bus.announce(window)
    async with Pool(workers=1, plugin_roots=roots) as pool:
        deps = Deps(bus, Scorer(pool, counters), counters, "reward-1")
        completions = await bus.work("completions", "job-1", "train")
        async with _running(on_job(job, data), _generate(bus), consume(completions, deps, 4)):
            records = await _records(bus, 2)
    (scored,) = [record for record in records if isinstance(record, Scored)]
    (void,) = [record for record in records if isinstance(record, Voided)]
    assert [reward.accuracy for reward in scored.rewards] == [1.0, 0.25]
    assert void.reason == "bad-sample" and "verifier is 'breif'; there are" in void.detail and "brief" in void.detail


async def test_a_job_whose_plugin_is_not_there_fails_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [math_row()])
    bus, job = MemoryBus(MemoryServer()), _job(tmp_path, "/elsewhere/mine.py")
    blobs = BlobStore((tmp_path / "blobs").as_uri())
    deps = DataDeps(bus, blobs, JobStore(bus), data_metrics.instruments(), Status(), plugin_roots=(tmp_path,))
    with pytest.raises(BadData, match=r"mine.py is no file under the folders that this deployment allows \("):
        await on_job(job, deps)


def test_a_plugin_s_names_are_read_without_running_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"raise SystemExit\n{_PLUGIN}\ndef compute_score(data_source, a, b): return 1.0\n"
    )
    assert {"brief", "mine", "exact"} <= verifiers_for(["mine.py"], [tmp_path]).keys()
    assert find_plugin(str(tmp_path / "mine.py"), [tmp_path]) == tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def exact(completion, spec, context): return 1.0", "defines 'exact', which there is already"),
        ("def f(a): return 1.0", r"defines no verifier \(f\(a\)\); expected a function"),
        ("def f(", "is no Python file"),
    ],
)
def test_a_plugin_that_adds_no_verifier_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(BadData, match=told):
        verifiers_for(["mine.py"], [tmp_path])


def test_a_plugin_that_is_named_with_its_folder_is_told_how_to_name_it(tmp_path: Path) -> None:
    (tmp_path / "plug").mkdir()
    (tmp_path / "plug" / "mine.py").write_text(_PLUGIN)
    with pytest.raises(BadData, match=r"\); expected 'mine\.py': a path is relative to such a folder"):
        find_plugin("plug/mine.py", [tmp_path / "plug"])
    with pytest.raises(BadData, match=r"allows \([^)]*\)$"):
        find_plugin("plug/other.py", [tmp_path / "plug"])


def test_a_function_that_seems_meant_as_a_verifier_and_is_none_is_told(tmp_path: Path) -> None:
    helpers = "def used(text): return len(text)\ndef two(completion, spec): return float(used(completion))\n"
    (tmp_path / "mine.py").write_text(f"{_PLUGIN}\n{helpers}\ndef _hidden(a): return a\n")
    assert left_out(["mine.py"], [tmp_path]) == [
        "the plugin mine.py defines two(completion, spec), which is no verifier; "
        "expected the parameters completion, spec, context"
    ]
