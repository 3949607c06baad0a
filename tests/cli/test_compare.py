"""Job files compared, cloned, and the lines of logs that concern a job."""

import pytest

from shared.errors import UserError
from shared.jobs.flat import differences, flat
from triune.cli.jobs.compare import _set
from triune.cli.jobs.logs import concerns


def test_tables_are_compared_key_by_key() -> None:
    one = flat({"model": "m", "algorithm": {"max_staleness": 0, "clip_low": 0.2}, "sources": {}})
    other = flat({"model": "m", "algorithm": {"max_staleness": 2}, "sources": {"a": {"weight": 2.0}}})
    assert differences(one, other) == [
        ("algorithm.clip_low", 0.2, None),
        ("algorithm.max_staleness", 0, 2),
        ("sources", {}, None),
        ("sources.a.weight", None, 2.0),
    ]
    assert differences(one, one) == []


def test_a_setting_is_read_as_toml_and_bare_words_as_text() -> None:
    document: dict[str, object] = {"algorithm": {"clip_low": 0.2}}
    for setting in ("algorithm.max_staleness=2", "sampling.temperature=0.7", "name=again", 'data.train=["a", "b"]'):
        _set(document, setting)
    assert document == {
        "algorithm": {"clip_low": 0.2, "max_staleness": 2},
        "sampling": {"temperature": 0.7},
        "name": "again",
        "data": {"train": ["a", "b"]},
    }
    with pytest.raises(UserError, match="expected key=value"):
        _set(document, "algorithm.max_staleness")
    with pytest.raises(UserError, match="'name' is no table"):
        _set(document, "name.first=1")


def test_a_line_concerns_a_job_that_it_names_or_in_whose_time_it_was_written() -> None:
    def line(at: str, **facts: str) -> dict[str, str]:
        return {"timestamp": at, "event": "x", **facts}

    span = (1_700_000_000.0, 1_700_000_060.0)  # 2023-11-14 22:13:20 UTC, one minute
    assert concerns(line("2023-11-14T22:00:00Z", job="a"), "a", span)
    assert not concerns(line("2023-11-14T22:13:30Z", job="b"), "a", span)
    assert concerns(line("2023-11-14T22:13:30Z"), "a", span)
    assert not concerns(line("2023-11-14T22:14:30Z"), "a", span)
    assert concerns(line("2023-11-14T22:14:30Z"), "a", (span[0], None))
