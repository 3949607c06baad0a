from pathlib import Path

import pytest

from services.monitor.api.submission import journal_mistakes, parse_document, read_changes, read_submission
from shared.errors import BadJob
from shared.jobs.spec import parse_job
from tests.monitor.stage import write_data


def spec(**algorithm: int) -> object:
    return parse_job({"model": "org/name", "total_steps": 1, "data": {"train": ["a"]}, "algorithm": algorithm})


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
        read_submission(body.encode(), "application/toml", ())


def test_paths_outside_of_the_roots_are_refused(tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    write_data(tmp_path / "train.parquet")
    (tmp_path / "config.json").write_text("{}")
    body = f'model = "{tmp_path}"\ntotal_steps = 1\n[data]\ntrain = ["{tmp_path}/train.parquet"]\n'
    with pytest.raises(BadJob) as found:
        read_submission(body.encode(), "application/toml", (tmp_path / "allowed",))
    assert len(found.value.mistakes) == 2


@pytest.mark.parametrize("value", [True, "2", float("inf"), 1.5, -1, None, [1]])
def test_a_value_that_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(BadJob, match="max_staleness"):
        read_changes({"max_staleness": value}, ())


def test_an_empty_change_is_refused() -> None:
    with pytest.raises(BadJob, match="changes nothing"):
        read_changes({}, ())
