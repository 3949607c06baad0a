"""A step computed again from a run folder gives the bits that were announced; what was changed since is found."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from services.learner.checkpoints.checkpoint import save
from services.learner.checkpoints.progress import Progress
from services.learner.publishing.exports import Exports
from services.monitor.exports.images import FOLDER as IMAGES
from services.monitor.history.batch import Batch
from services.monitor.history.fold import Fold
from services.monitor.history.store import Store
from shared.blobs.store import BlobStore
from shared.blobs.weights import WeightsStore
from shared.bus.port import JournalEntry
from shared.jobs.document import write_toml
from shared.messages import BlobRef, Event, Portion, StepDone, WeightsPublished
from triune.cli import app

STEPS, GROUPS = 3, 2


@dataclass(frozen=True)
class Run:
    runs: Path
    folder: Path


@pytest.fixture(scope="module", params=["updates", "portions"])
def trained(request, make_engine, make_spec, make_group, tmp_path_factory) -> Run:
    """Three steps of two groups, as learner and monitor leave them; a checkpoint behind the second.

    Of two updates each, or with the second group computed before the first one had come.
    """
    has_portions = request.param == "portions"
    runs = tmp_path_factory.mktemp("replay") / "runs"
    folder = runs / "job-1"
    settings = {"algorithm": {"prompts_per_step": GROUPS, "samples_per_prompt": 2}}
    if not has_portions:
        settings["algorithm"]["updates_per_step"] = 2
    learner = make_engine(**settings)
    blobs = BlobStore((runs / "blobs").as_uri())
    exports = Exports(learner.engine, blobs, WeightsStore(blobs, runs / "weights"), 1)
    entries, events = [], list[tuple[Event, int]]()
    (folder / IMAGES).mkdir(parents=True)
    for number in range(1, STEPS + 1):
        first = (number - 1) * GROUPS
        made = [make_group(first + k) for k in range(GROUPS)]
        for scored, images in made:
            entries.append(JournalEntry(len(entries) + 1, scored))
            for image, data in zip(scored.prompt.images, images, strict=True):
                (folder / IMAGES / image.blob.digest).write_bytes(data)
        ready = [learner.ingest(*group) for group in made]
        importance = number == 2
        portions = [Portion([first + 1], 0.5, 0.75)] if has_portions else []
        result = learner.step(ready, number, importance, [portion.ordinals for portion in portions])
        done = StepDone(
            job="job-1", step=number, incarnation=0, trained=[first, first + 1], voided=[], staleness=[0, 0],
            metrics=result.metrics, advantages={one.ordinal: one.advantages.tolist() for one in ready},
            timing={"step_s": 1.0}, finished_at=float(number), importance=importance, portions=portions,
        )  # fmt: skip
        snapshot = exports.snapshot()
        digest = exports.store(snapshot, number).digest
        snapshot.discard()
        published = WeightsPublished(
            job="job-1", version=number, incarnation=0, cursor=first + GROUPS, window_end=99, max_staleness=0,
            total_steps=10, manifest=BlobRef(digest="d" * 64, size=1), digest=digest,
        )  # fmt: skip
        events += [(done, 2 * number), (published, 2 * number + 1)]
        if number == 2:
            save(learner.engine, folder / "checkpoints", Progress(step=2, cursor=2 * GROUPS), keep=2)
    exports.close()
    store = Store(folder)
    Fold(store).apply(Batch(train=entries, events=events))
    store.close()
    (folder / "job.toml").write_text(write_toml(make_spec(**settings)))
    (folder / "report.json").write_text('{"state": "done", "changes": []}')
    return Run(runs, folder)


def replay(runs: Path, *words: str) -> tuple[int, list[dict[str, object]], str]:
    result = CliRunner().invoke(app, ["replay", "job-1", *words, "--json"], env={"TRIUNE_RUNS": str(runs)})
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return result.exit_code, lines, result.output


def test_the_last_step_is_made_again_from_the_checkpoint_before_it(trained: Run) -> None:
    code, lines, text = replay(trained.runs)
    assert code == 0, text
    assert [(line["step"], line["from"], line["different"]) for line in lines] == [(3, "step-000002", {})]
    assert lines[0]["weights"]["announced"] == lines[0]["weights"]["here"]  # type: ignore[index]
    assert lines[0]["metrics"] > 5  # type: ignore[operator]


def test_without_a_checkpoint_before_it_every_step_from_the_jobs_model_on_is_made(trained: Run) -> None:
    code, lines, text = replay(trained.runs, "--step", "2")
    assert code == 0, text
    assert [line["step"] for line in lines] == [1, 2]
    said = CliRunner().invoke(app, ["replay", "job-1", "--step", "1"], env={"TRIUNE_RUNS": str(trained.runs)}).stdout
    assert "weights equal bit for bit" in said and "all advantages equal" in said


def test_a_reward_that_was_changed_since_is_told_with_both_numbers(trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.runs, tmp_path / "runs")
    path = tmp_path / "runs" / "job-1" / "samples" / "train-000003.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["completions"][0]["reward"] += 0.5
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    code, lines, _ = replay(tmp_path / "runs")
    assert code == 1
    assert {"weights", "advantage 4/0"} <= lines[0]["different"].keys()  # type: ignore[union-attr]


def test_what_is_not_there_is_one_sentence(trained: Run, tmp_path: Path) -> None:
    assert "has no step 7" in replay(trained.runs, "--step", "7")[2].replace("\n", " ")
    code, _, text = replay(tmp_path)
    assert (code, "there is no run folder" in text) == (2, True)
    shutil.copytree(trained.runs, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "job-1" / IMAGES)
    code, _, text = replay(tmp_path / "runs")
    assert code == 2 and "training files again" in text.replace("\n", " ")
