"""What a model can learn from is kept: rules of each task, pass counts, thresholds that change without generating."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data.curating import shards as module
from services.data.curating.output import evaluated_rows, write_selected
from services.data.curating.passes import Passes, Share, by_source, count_passes, read_passes, write_passes
from services.data.curating.report import write_report
from services.data.curating.rules import why_left_out
from services.data.curating.selection import Thresholds, selected, why_not_kept
from services.data.curating.shards import WHOLE, write_shards
from services.data.reading.sample import read_row
from shared.errors import TriuneError, UserError
from shared.samples.files import DataFile, open_file, open_files, read_group
from shared.samples.places import Place
from tests.data.rows import boxes_row, broken_row, math_row, png, write


def judged(row: dict[str, Any], ability: str) -> str | None:
    return why_left_out(read_row(row | {"ability": ability}, "x", lambda path: b""))


def boxes(*items: tuple[list[int], str]) -> dict[str, Any]:
    answer = str([{"bbox_2d": corners, "label": label} for corners, label in items])
    return boxes_row(answer=answer, ground_truth=f"<answer>\n{answer}\n</answer>")


def asked(question: str, answer: str = "4", **reward: Any) -> dict[str, Any]:
    return math_row(answer=answer, **reward) | {"prompt": [{"content": f"<image>{question}", "role": "user"}]}


@pytest.mark.parametrize(
    ("row", "ability", "reason"),
    [
        (asked("How many?"), "math", None),
        (asked("Which?\nA. cat\nB. dog"), "science", "multiple choice"),
        (asked("Which?", "B", verifier="choice", ground_truth="B"), "puzzle", "multiple choice"),
        (asked("Is it?", "True"), "chart", "true or false"),
        (asked("Solve.", "x = 4"), "math", "an answer with one of = [ ] ( ) ;"),
        (asked("Name it.", "a" * 21), "math", "an answer of more than 20 characters"),
        (asked("Q" * 2001), "math", "a question of more than 2000 characters"),
        (asked("How many?", "x = 4"), "counting", None),
        (asked("数数"), "counting", "not in English letters"),
        (boxes(([0, 0, 500, 500], "cat")), "cv_detection", None),
        (boxes(([0, 0, 1000, 501], "cat")), "cv_detection", "a box of more than 50% of the image"),
        (boxes(*[([i, 0, i + 9, 9], "cat") for i in range(11)]), "cv_detection", "more than 10 boxes of a label"),
        (boxes(*[([i, 0, i + 9, 9], f"cat {i}") for i in range(11)]), "cv_detection", None),
        (boxes(([0, 0, 9, 9], "the small cat behind the door")), "cv_grounding", "a label of more than 5 words"),
    ],
)
def test_rules_are_those_of_the_papers_tasks(row: dict[str, Any], ability: str, reason: str | None) -> None:
    assert judged(row, ability) == reason


def ids(file: DataFile) -> list[str]:
    return [row["extra_info"]["id"] for group in range(len(file.groups)) for row in read_group(file, group)]


def test_shards_hold_what_the_rules_let_stay_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 4)
    rows = [math_row(i) | {"images": [{"bytes": png(36, 32, i * 7), "path": ""}]} for i in range(6)]
    rows += [broken_row(6), math_row(7, answer="x = 1") | {"ability": "math"}, math_row(8)]
    write(tmp_path / "in/a.parquet", rows)
    made = write_shards(open_files([str(tmp_path / "in")]), tmp_path / "shards", rules=True, duplicates=True)
    assert [open_file(Place(str(path))).rows for path in made.files] == [4, 2, 1]
    assert made.left_out == {
        "a row that cannot be used (first: image 0: the image has no bytes)": 1,
        "an answer with one of = [ ] ( ) ;": 1,
    }
    stamps = [path.stat().st_mtime_ns for path in made.files]
    again = write_shards(open_files([str(tmp_path / "in")]), tmp_path / "shards", rules=True, duplicates=True)
    assert again == made and [path.stat().st_mtime_ns for path in again.files] == stamps
    with pytest.raises(UserError, match="expected a new or an empty folder"):
        write_shards(open_files([str(tmp_path / "in")]), tmp_path / "shards", rules=False, duplicates=True)
    (tmp_path / "shards" / WHOLE).unlink()  # as a death leaves it: rows are judged by those before them, so anew
    assert (
        len(write_shards(open_files([str(tmp_path / "in")]), tmp_path / "shards", rules=False, duplicates=True).files)
        == 3
    )


def test_rows_that_look_the_same_are_one_row(tmp_path: Path) -> None:
    rows = [math_row(i) | {"prompt": [{"content": "<image>Which?", "role": "user"}]} for i in (1, 2, 3)]
    rows[2]["prompt"] = [{"content": "<image>Where?", "role": "user"}]
    write(tmp_path / "in/a.parquet", rows)
    made = write_shards(open_files([str(tmp_path / "in")]), tmp_path / "s", rules=True, duplicates=False)
    assert ids(open_file(Place(str(made.files[0])))) == ["numbers/1", "numbers/3"]
    assert made.left_out == {"the question and what its image looks like were there before": 1}


def test_shards_without_a_row_hold_up_no_other_files(tmp_path: Path) -> None:
    bad, good = write(tmp_path / "bad.parquet", [broken_row()]), write(tmp_path / "good.parquet", [math_row()])
    assert not write_shards(open_files([str(bad)]), tmp_path / "s", rules=True, duplicates=True).files
    assert len(write_shards(open_files([str(good)]), tmp_path / "s", rules=True, duplicates=True).files) == 1


def group(ordinal: int, *accuracies: float | None, reason: str = "", source: str = "numbers") -> dict[str, Any]:
    completions = [{"status": "verifier-error" if a is None else "ok", "accuracy": a} for a in accuracies]
    return {
        "ordinal": ordinal,
        "sample_id": f"{source}/{ordinal}",
        "source": source,
        "task": "counting",
        "reason": reason,
        "detail": "torn" if reason else "",
        "completions": completions or None,
    }


def test_passes_are_counted_by_row_and_errors_are_no_failures(tmp_path: Path) -> None:
    groups = [group(1, 1.0, 0.0, None), group(0, 0.4, 0.6), group(2, reason="bad-sample"), group(3, None, None)]
    pq.write_table(pa.Table.from_pylist(groups), tmp_path / "eval.parquet")
    found = count_passes(tmp_path / "eval.parquet", Path("shard"), [5, 3, 9, 1], threshold=0.5)
    assert [(one.row, one.tries, one.passes, one.accuracy, one.void) for one in found] == [
        (5, 2, 1, 0.5, ""),
        (3, 2, 1, 0.5, ""),
        (9, 0, 0, 0.0, "bad-sample: torn"),
        (1, 0, 0, 0.0, "unverifiable"),
    ]
    write_passes(tmp_path / "passes.parquet", found)
    assert read_passes(tmp_path / "passes.parquet") == found
    with pytest.raises(TriuneError, match="1 of 5 rows of shard have no group"):
        count_passes(tmp_path / "eval.parquet", Path("shard"), [5, 3, 9, 1, 2], threshold=0.5)


def one(passes: int, tries: int = 8, task: str = "math", accuracy: float = 0.0, void: str = "") -> Passes:
    return Passes("s", passes, "id", "source", task, tries, passes, accuracy, void)


@pytest.mark.parametrize(
    ("sample", "verdict"),
    [  # the paper: 0 <= pass@8 < 100 %; of boxes a reward of 2 to 10 in 16 tries
        (one(0), None),
        (one(7), None),
        (one(8), "too easy"),
        (one(0, 16, "detection", 1.9 / 16), "too hard"),
        (one(16, 16, "detection", 2 / 16), None),
        (one(0, 16, "grounding", 10 / 16), None),
        (one(0, 16, "grounding", 10.1 / 16), "too easy"),
        (one(0, 0, void="bad-sample"), "could not be judged"),
    ],
)
def test_the_papers_thresholds_are_the_defaults(sample: Passes, verdict: str | None) -> None:
    assert why_not_kept(sample, Thresholds()) == verdict


def test_a_curriculum_goes_from_easy_to_hard_and_thresholds_change_without_tries() -> None:
    passes = [one(1), one(6), one(8), one(3)]
    kept, reasons = selected(passes, Thresholds(), easy_first=True)
    assert [sample.passes for sample in kept] == [6, 3, 1] and reasons == {"too easy": 1}
    kept, reasons = selected(passes, Thresholds(least_pass=0.25, most_pass=1.0), easy_first=False)
    assert [sample.passes for sample in kept] == [6, 8, 3] and reasons == {"too hard": 1}


def test_ordinals_of_an_evaluation_are_rows_source_by_source_and_the_kept_ones_are_written(tmp_path: Path) -> None:
    rows = [math_row(i, "b" if i % 2 else "a") for i in range(7)]
    file = open_file(Place(str(write(tmp_path / "shard.parquet", rows, group=3))))
    assert evaluated_rows(file) == [0, 2, 4, 6, 1, 3, 5]
    kept = [Passes("shard.parquet", row, f"n/{row}", "a", "math", 8, 8 - row, 0.0, "") for row in (6, 1, 5)]
    files = {"shard.parquet": file}
    assert write_selected(kept, files, tmp_path / "out") == write_selected(kept, files, tmp_path / "out") == 3
    (out,) = open_files([str(tmp_path / "out")])
    assert ids(out) == ["a/6", "b/1", "b/5"]
    write_report(tmp_path / "r.html", files, Counter({"multiple choice": 2}), kept, Thresholds())
    page = (tmp_path / "r.html").read_text()
    assert "2: multiple choice" in page and "7 of 8 right, mean accuracy" in page and page.count("<article>") == 3


def test_shares_count_rows_that_could_be_judged() -> None:
    rows = [
        Passes("s", i, "", "a", "", tries, passes, 0.0, "")
        for i, (tries, passes) in enumerate([(4, 0), (4, 4), (4, 2), (0, 0)])
    ]
    assert by_source(rows) == {"a": Share(3, 0.5, 1, 1)}
