from pathlib import Path

import pytest

from services.monitor.analysis.trace import trace_group, trace_lines
from services.monitor.history.batch import Batch
from services.monitor.history.fold import Fold
from services.monitor.history.store import Store
from shared.errors import UserError
from shared.messages import Portion
from tests.monitor.runs import entries, group, step_done, void


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "demo-00000000"
    fold = Fold(Store(folder))
    fold.apply(
        Batch(train=entries(group(0, weights=2), void(1), group(2)), events=[(step_done(1, [0], [1], stale=1), 1)])
    )
    return folder


def test_a_group_is_told_from_its_prompt_to_its_gradient(folder: Path) -> None:
    trace = trace_group(folder, 0)
    assert [(s.name, s.start, s.end) for s in trace.stages] == [
        ("published", 9.0, 10.0),
        ("generated", 10.0, 12.0),
        ("scored", 12.5, 13.0),
        ("trained", 99.0, 100.0),
    ]
    assert trace.stages[1].facts["versions"] == [2]
    assert trace.stages[3].facts == {"step": 1, "staleness": 1, "advantages": [1.0, None]}
    lines = list(trace_lines(trace))
    assert "by rollout-a" in lines[2] and "step 1" in lines[4]


def test_a_group_that_was_computed_before_the_last_one_had_come_is_trained_from_then_on(tmp_path: Path) -> None:
    done = step_done(1, [0, 2], portions=[Portion([0], 97.0, 98.0)])
    Fold(Store(tmp_path)).apply(Batch(train=entries(group(0), group(2)), events=[(done, 1)]))
    assert [trace_group(tmp_path, ordinal).stages[3].start for ordinal in (0, 2)] == [97.0, 99.0]


def test_a_void_group_says_why(folder: Path) -> None:
    assert list(trace_lines(trace_group(folder, 1)))[-1] == "  void: bad-sample; it is bad-sample"


def test_a_group_that_waits_for_its_step_is_shown_as_far_as_it_came(folder: Path) -> None:
    trace = trace_group(folder, 2)
    assert [stage.name for stage in trace.stages] == ["published", "generated", "scored"]
    assert "no step has consumed it" in list(trace_lines(trace))[-1]


def test_an_unknown_group_is_one_sentence(folder: Path) -> None:
    with pytest.raises(UserError, match="has no train group 7"):
        trace_group(folder, 7)
