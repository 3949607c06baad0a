"""Ordinal → prompt: what stands in a prompt, and what never changes."""

from pathlib import Path
from typing import Any

import pytest

from services.data.mixing.order import HeldOut, TrainingOrder, source_weights
from services.data.mixing.prompts import FREE_REASONING, TAGGED_REASONING
from services.data.reading.rows import Rows
from services.data.reading.sources import index_sources
from shared.blobs.store import BlobStore
from shared.errors import BadData, BadJob
from shared.jobs.document import parse_job
from shared.jobs.record import Change
from shared.jobs.spec import JobSpec
from shared.messages import Prompt, Voided, encode
from shared.samples.files import open_files
from tests.data.rows import boxes_row, broken_row, math_row, write


def spec(folder: Path, **keys: Any) -> JobSpec:
    document = {"model": "m", "total_steps": 9, "seed": 3, "data": {"train": [str(folder)]}} | keys
    return parse_job(document)


def order(tmp_path: Path, changes: tuple[Change, ...] = (), **keys: Any) -> TrainingOrder:
    job = spec(tmp_path / "d", **keys)
    rows = Rows(BlobStore((tmp_path / "blobs").as_uri()), 1000)
    return TrainingOrder("job", job, index_sources(open_files(job.data.train)), rows, list(changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "d/a.parquet", [math_row(i, format_ratio=0.1 if i % 2 else 0.0) for i in range(6)])
    write(tmp_path / "d/b.parquet", [boxes_row(i) for i in range(3)] + [broken_row(9, "boxes")])
    return tmp_path


def test_an_epoch_holds_every_row_once_and_bad_rows_are_void(folder: Path) -> None:
    drafts = [order(folder).at(ordinal) for ordinal in range(10)]
    voids = [draft for draft in drafts if isinstance(draft, Voided)]
    assert len({draft.sample_id for draft in drafts}) == 10
    assert [(void.source, void.task, void.reason, void.stage) for void in voids] == [
        ("boxes", "counting", "bad-sample", "data")
    ]
    assert voids[0].detail == "image 0: the image has no bytes"


def test_a_prompt_carries_what_rollout_and_reward_need(folder: Path) -> None:
    keys = {
        "sampling": {"max_new_tokens": 7, "temperature": 0.5},
        "algorithm": {"samples_per_prompt": 4},
        "reward": {"iou_threshold": 0.5, "deadline_s": 3.0},
    }
    made = order(folder, **keys)
    prompts = [draft for draft in map(made.at, range(10)) if isinstance(draft, Prompt)]
    boxes = next(prompt for prompt in prompts if prompt.source == "boxes")
    assert (boxes.kind, boxes.task, boxes.version) == ("train", "detection", None)
    assert (boxes.sampling.n, boxes.sampling.temperature, boxes.sampling.max_new_tokens) == (4, 0.5, 7)
    assert boxes.turns[0].content.startswith("<image>How many") and "\n" not in boxes.turns[0].content
    assert boxes.reward.params["det_verifier_normalized"] is True
    assert boxes.reward.options["iou_threshold"] == 0.5 and boxes.reward.options["deadline_s"] == 3.0
    assert boxes.reward.format_ratio == pytest.approx(0.1)
    assert len({prompt.sampling.seed for prompt in prompts}) == len(prompts)


def test_mathverify_prompts_are_asked_for_their_form_by_their_format_ratio(folder: Path) -> None:
    for draft in map(order(folder).at, range(10)):
        if isinstance(draft, Prompt) and draft.reward.verifier == "mathverify":
            pool = TAGGED_REASONING if draft.reward.format_ratio else FREE_REASONING
            assert any(sentence in draft.turns[0].content for sentence in pool)
    plain = order(folder, data={"train": [str(folder / "d")], "cot_prompts": False})
    assert not any("boxed" in draft.turns[0].content for draft in map(plain.at, range(10)) if isinstance(draft, Prompt))


def test_the_same_job_makes_the_same_bytes_and_another_seed_other_ones(folder: Path) -> None:
    first, second = order(folder), order(folder)
    assert [encode(first.at(o)) for o in range(20)] == [encode(second.at(o)) for o in reversed(range(20))][::-1]
    assert [first.at(o).sample_id for o in range(10)] != [order(folder, seed=4).at(o).sample_id for o in range(10)]


def test_epochs_bound_the_order(folder: Path) -> None:
    assert order(folder).total is None
    assert order(folder, data={"train": [str(folder / "d")], "epochs": 2}).total == 20


def test_the_held_out_order_is_the_files_and_its_words_never_change(folder: Path) -> None:
    job = spec(folder / "d")
    rows = Rows(BlobStore((folder / "blobs").as_uri()), 1000)
    held_out = HeldOut("job", job, index_sources(open_files(job.data.train)), rows)
    drafts = [held_out.at(ordinal, 5) for ordinal in range(len(held_out))]
    assert len(drafts) == 10 and [draft.ordinal for draft in drafts] == list(range(10))
    assert [draft.source for draft in drafts] == ["boxes"] * 4 + ["numbers"] * 6
    assert all(draft.kind == "eval" and draft.version == 5 for draft in drafts)
    prompt, later = drafts[-1], held_out.at(9, 8)
    assert isinstance(prompt, Prompt) and isinstance(later, Prompt)
    assert (prompt.sampling.n, prompt.sampling.temperature, prompt.min_version) == (1, 0.0, 5)
    assert (later.turns, later.version) == (prompt.turns, 8)


def change(key: str, value: float, since: int | None) -> Change:
    return Change(key=key, value=value, requested_at=0.0, since=since)


def test_weight_changes_hold_from_their_ordinal_on_and_others_are_not_weights(folder: Path) -> None:
    job = spec(folder / "d", sources={"boxes": {"weight": 2.0}})
    sources = index_sources(open_files(job.data.train))
    changes = [
        change("sources.numbers.weight", 0.5, 7),
        change("max_staleness", 2, 8),
        change("sources.boxes.weight", 1.0, 9),
        change("sources.numbers.weight", 3.0, 9),
        change("sources.numbers.weight", 4.0, None),
    ]
    phases = source_weights(job, sources, changes)
    assert [(phase.since, dict(phase.by_source)) for phase in phases] == [
        (0, {"boxes": 2.0}),
        (7, {"boxes": 2.0, "numbers": 0.5}),
        (9, {"boxes": 1.0, "numbers": 3.0}),
    ]


def test_a_weight_for_a_source_that_is_not_there_is_bad_data(folder: Path) -> None:
    with pytest.raises(BadData, match=r"sources\.chart: the training files have no such source; they have boxes, num"):
        order(folder, sources={"chart": {"weight": 1.0}})


def test_a_source_has_its_own_number_and_length_of_completions(folder: Path) -> None:
    made = order(
        folder,
        sources={"boxes": {"samples_per_prompt": 16, "max_new_tokens": 300}},
        algorithm={"samples_per_prompt": 4},
        sampling={"max_new_tokens": 7},
    )
    prompts = [draft for draft in map(made.at, range(10)) if isinstance(draft, Prompt)]
    assert {(p.source, p.sampling.n, p.sampling.max_new_tokens) for p in prompts} == {
        ("boxes", 16, 300),
        ("numbers", 4, 7),
    }


def test_a_schedule_changes_weights_at_its_steps_until_a_request_does(folder: Path) -> None:
    job = spec(
        folder / "d",
        sources={"boxes": {"weight": 3.0, "schedule": [[2, 1.0], [5, 0.5], [9, 0.0]]}, "numbers": {"weight": 2.0}},
        algorithm={"prompts_per_step": 4},
    )
    sources = index_sources(open_files(job.data.train))
    planned = source_weights(job, sources, [])
    assert [(phase.since, phase.by_source["boxes"]) for phase in planned] == [(0, 3.0), (8, 1.0), (20, 0.5), (36, 0.0)]
    asked = source_weights(job, sources, [change("sources.boxes.weight", 7.0, 21), change("max_staleness", 1.0, 3)])
    assert [(phase.since, phase.by_source["boxes"]) for phase in asked] == [(0, 3.0), (8, 1.0), (20, 0.5), (21, 7.0)]
    with pytest.raises(BadJob, match=r"schedule has steps .*; expected rising ones"):
        spec(folder / "d", sources={"boxes": {"schedule": [[3, 1.0], [2, 1.0]]}})
