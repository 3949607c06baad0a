from collections.abc import Sequence
from pathlib import Path

import pytest

from services.monitor.checks.changes import read_changes, step_mistakes, weights_left, with_changes
from services.monitor.checks.foolish import warnings
from services.monitor.checks.journal import journal_mistakes, left_over_bytes
from services.monitor.checks.submission import parse_document
from services.monitor.checks.submission import read_submission as draft_of
from shared.bus.memory.bus import MemoryBus
from shared.errors import BadJob
from shared.jobs.document import parse_job
from shared.jobs.record import Change, JobRecord
from shared.jobs.spec import JobSpec
from shared.samples.places import ANYWHERE, Roots
from tests.fakes import make_voided
from tests.monitor.stage import write_data


def read_submission(body: bytes, kind: str, roots: Roots, plugin_roots: Sequence[Path] = ()) -> JobSpec:
    draft = draft_of(body, kind, roots, plugin_roots)
    if draft.mistakes:
        raise BadJob(draft.mistakes)
    return draft.spec


def spec(**algorithm: int) -> object:
    return parse_job({"model": "org/name", "total_steps": 1, "data": {"train": ["a"]}, "algorithm": algorithm})


@pytest.mark.parametrize("model", ["runs/old/model", "two words", "a--b", "org/", "https://example.org/x"])
def test_a_model_that_is_neither_a_folder_nor_a_hub_id_is_refused(tmp_path: Path, model: str) -> None:
    write_data(tmp_path / "train.parquet")
    body = f'model = "{model}"\ntotal_steps = 1\n[data]\ntrain = ["{tmp_path}/train.parquet"]\n'.encode()
    with pytest.raises(BadJob, match="no folder of that name, and it is no hub id"):
        read_submission(body, "application/toml", ANYWHERE)
    known = body.replace(model.encode(), b"Qwen/Qwen2.5-VL-7B-Instruct")
    assert read_submission(known, "application/toml", ANYWHERE).model == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_a_window_that_does_not_fit_in_the_journal_is_refused() -> None:
    # 8 completions of 2048 tokens of 12 bytes and a prompt of 8192 tokens of 4: 229,376 bytes a group.
    job = spec(prompts_per_step=100, samples_per_prompt=8, max_staleness=1)
    needed = 3 * 100 * 229_376
    assert journal_mistakes(job, int(needed / 0.3) + 1) == []  # type: ignore[arg-type]
    assert "69 MB" in journal_mistakes(job, int(needed / 0.3) - 1)[0]  # type: ignore[arg-type]
    assert journal_mistakes(job, -1) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "kind", "part"),
    [
        (b"\xff", "application/toml", "UTF-8"),
        (b"[1]", "application/json", "list"),
        (b"{", "application/json", "JSON"),
        (b"a = ", "application/toml", "TOML"),
        (b"[" * 100_000, "application/json", "JSON"),
    ],
)
def test_a_body_that_cannot_be_read_is_one_sentence(body: bytes, kind: str, part: str) -> None:
    with pytest.raises(BadJob, match=part) as found:
        parse_document(body, kind)
    assert len(found.value.mistakes) == 1


def test_a_source_that_the_files_do_not_have_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    write_data(tmp_path / "train.parquet")
    body = (
        f'model = "org/name"\ntotal_steps = 1\n[data]\ntrain = ["{tmp_path}/*.parquet"]\n[sources.sum]\nweight = 2.0\n'
    )
    with pytest.raises(BadJob, match="no source 'sum'; the nearest one is 'sums'"):
        read_submission(body.encode(), "application/toml", ANYWHERE)


def test_a_plugin_is_looked_at_before_its_job_is_taken(tmp_path: Path) -> None:
    write_data(tmp_path / "train.parquet")
    (tmp_path / "good.py").write_text("def brief(completion, spec, context): return 1.0\n")
    body = f'model = "org/name"\ntotal_steps = 1\n[data]\ntrain = ["{tmp_path}/*.parquet"]\n[reward]\nplugins = '
    kind = "application/toml"
    assert read_submission(f'{body}["good.py"]'.encode(), kind, ANYWHERE, [tmp_path]).reward.plugins == ["good.py"]
    with pytest.raises(BadJob, match=r"reward\.plugins: the plugin gone.py is no file under the folders"):
        read_submission(f'{body}["gone.py"]'.encode(), kind, ANYWHERE, [tmp_path])


def test_paths_outside_of_the_roots_are_refused(tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    write_data(tmp_path / "train.parquet")
    (tmp_path / "config.json").write_text("{}")
    body = f'model = "{tmp_path}"\ntotal_steps = 1\n[data]\ntrain = ["{tmp_path}/train.parquet"]\n'
    with pytest.raises(BadJob) as found:
        read_submission(body.encode(), "application/toml", Roots.of([str(tmp_path / "allowed")]))
    assert len(found.value.mistakes) == 2


@pytest.mark.parametrize("value", [True, "2", float("inf"), 1.5, -1, None, [1], 10**30])
def test_a_value_that_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(BadJob, match="max_staleness"):
        read_changes({"max_staleness": value}, ())


def test_an_empty_change_is_refused() -> None:
    with pytest.raises(BadJob, match="changes nothing"):
        read_changes({}, ())


def test_a_number_is_told_as_it_was_written() -> None:
    with pytest.raises(BadJob, match="max_staleness is 100000000000000000000000; expected a whole number from 0"):
        read_changes({"max_staleness": 10**23}, ())


def test_a_key_that_cannot_be_changed_is_told_what_can() -> None:
    with pytest.raises(BadJob, match="what can be is max_staleness, total_steps and sources"):
        read_changes({"optimizer.learning_rate": 1e-5}, ())


def changed(**changes: float) -> JobRecord:
    record = JobRecord(id="a", spec=spec(), state="running", created_at=0.0)  # type: ignore[arg-type]
    return with_changes(record, [Change(key=k, value=v, requested_at=0.0) for k, v in changes.items()])


def test_steps_that_were_made_are_not_taken_back() -> None:
    assert step_mistakes(changed(total_steps=43), 43) == []
    assert step_mistakes(changed(total_steps=3), 43) == [
        "total_steps is 3, but the job has made 43 steps; expected at least 43"
    ]


def test_a_mixture_of_nothing_is_refused_whichever_change_makes_it() -> None:
    both = {"sources.a.weight": 0.0, "sources.b.weight": 0.0}
    assert "every weight is 0 from step 7 on" in weights_left(changed(**both), ["a", "b"], 7)[0]
    assert weights_left(changed(**both), ["a", "b", "c"], 7) == []  # c keeps its weight of 1


async def test_what_failed_jobs_hold_of_the_journal_counts_as_taken() -> None:
    bus = MemoryBus()
    for ordinal in range(3):
        await bus.publish("scored", "failed", "train", make_voided(ordinal, job="failed"), f"f{ordinal}")
    await bus.publish("scored", "alive", "train", make_voided(0, job="alive"), "a0")
    records = [
        JobRecord(id="failed", spec=spec(), state="failed", created_at=0.0),  # type: ignore[arg-type]
        JobRecord(id="alive", spec=spec(), state="running", created_at=1.0),  # type: ignore[arg-type]
    ]
    total = (await bus.stream_state("scored")).bytes
    assert await left_over_bytes(bus, records) == total * 3 // 4
    assert await left_over_bytes(bus, records, besides="failed") == 0
    job = spec(prompts_per_step=100, samples_per_prompt=8, max_staleness=1)
    largest = int(3 * 100 * 229_376 / 0.3) + 1
    assert journal_mistakes(job, largest) == []  # type: ignore[arg-type]
    assert "delete jobs that failed: they hold 1 MB" in journal_mistakes(job, largest, 10**6)[0]  # type: ignore[arg-type]


def test_a_model_of_an_unknown_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    write_data(tmp_path / "train.parquet")
    (tmp_path / "config.json").write_text('{"model_type": "kimi_k25"}')
    body = f'model = "{tmp_path}"\ntotal_steps = 1\n[data]\ntrain = ["{tmp_path}/train.parquet"]\n'
    with pytest.raises(BadJob, match=r"'kimi_k25'; expected one of .*qwen2_5_vl, qwen2_vl, .*qwen3_vl"):
        read_submission(body.encode(), "application/toml", ANYWHERE)


def test_what_is_legal_and_hardly_meant_is_told(tmp_path: Path) -> None:
    write_data(tmp_path / "train.parquet")
    files = [str(tmp_path / "train.parquet")]

    def told(held_out: list[str], **keys: dict[str, object]) -> list[str]:
        document = {"model": str(tmp_path), "total_steps": 2, "data": {"train": files, "held_out": held_out}} | keys
        return warnings(parse_job(document), ANYWHERE, [tmp_path])

    assert told(["none.parquet"]) == []
    assert told([]) == ["data.held_out is empty: there will be no reward before and after"]
    (same,) = told(files)
    assert same.startswith("data.train and data.held_out have 1 files in common")
    foolish = told(
        ["none.parquet"],
        algorithm={"samples_per_prompt": 1000, "prompts_per_step": 16, "updates_per_step": 7, "max_staleness": 2},
    )
    assert [sentence.split()[0] for sentence in foolish] == [
        "algorithm.samples_per_prompt",
        "algorithm.updates_per_step",
        "algorithm.max_staleness",
    ]
    (tmp_path / "mine.py").write_text("def two(text): return 1.0\ndef one(completion, spec, context): return 1.0\n")
    (odd,) = told(["none.parquet"], reward={"plugins": ["mine.py"]})
    assert odd.startswith("reward.plugins: the plugin mine.py defines two(text), which is no verifier")


def test_mistakes_of_all_kinds_are_told_in_one_answer(tmp_path: Path) -> None:
    body = (
        f'model = "{tmp_path}/gone"\ntotal_steps = "ten"\ntotl = 1\n'  # a folder, a type, a name
        '[data]\ntrain = ["/no/such/*.parquet"]\n'  # files
        "[algorithm]\nsamples_per_prompt = 1\n"  # a rule
        '[optimizer]\nlearning_rate = -1.0\nfreeze = ["vit", "connector", "llm"]\n'  # a bound, another rule
        "[monitor]\nsinks = [1]\n"
    )
    draft = draft_of(body.encode(), "application/toml", ANYWHERE)
    for begin in (
        "model ", "total_steps is 'ten'", "unknown key 'totl'", "data.train: ", "algorithm.samples_per_prompt is 1",
        "optimizer.learning_rate is -1.0", "optimizer.freeze names", "monitor.sinks is [1]",
    ):  # fmt: skip
        assert [begin for told in draft.mistakes if told.startswith(begin)] == [begin], draft.mistakes
    assert len(draft.mistakes) == 8
    assert not draft.has("optimizer.learning_rate")
    assert draft.has("optimizer.warmup_steps", "algorithm")
