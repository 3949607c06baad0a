"""Questions with their answers, in any of the forms that tables have, become rows that a job reads."""

import base64
import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data.checking.rows import check_file
from services.data.converting.kinds import CONVERTERS
from services.data.converting.options import Options
from shared.errors import BadSample
from shared.samples.files import open_files
from tests.data.converted import converted, picture
from tests.data.rows import math_row, png


def test_an_image_in_a_data_url_is_read(tmp_path: Path) -> None:
    url = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "1?"}]
    rows: list[dict[str, Any]] = [
        {"images": [url], "question": "1?", "answer": "1"},
        {"images": [{"path": url}], "question": "1?", "answer": "1"},
        {"prompt": [{"role": "user", "content": parts}], "answer": "1"},
    ]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "schema.jsonl").write_text(json.dumps(math_row(1) | {"images": [url]}))
    made = converted(tmp_path / "table.jsonl", tmp_path / "a") + converted(tmp_path / "schema.jsonl", tmp_path / "b")
    assert [row["images"] for row in made] == [[{"bytes": png(), "path": ""}]] * 4
    (file,) = open_files([str(tmp_path / "schema.jsonl")])
    assert list(check_file(file)) == []  # as it is, too


@pytest.mark.parametrize(
    ("url", "reason"),
    [("data:image/png;base64,?", "base64 cannot be read"), ("data:text/plain,a", "expected data:image/…;base64")],
)
def test_another_data_url_is_no_image(tmp_path: Path, url: str, reason: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(math_row(1) | {"images": [url]}))
    (file,) = open_files([str(tmp_path / "a.jsonl")])
    (problem,) = check_file(file)
    assert reason in problem.reason


def test_lines_of_questions_choose_their_verifier(tmp_path: Path) -> None:
    picture(tmp_path / "img/a.png")
    lines = [
        {"image": "img/a.png", "question": "How many?", "answer": 12},
        {"image": "img/a.png", "question": "Which word?", "answer": "exit"},
        {"question": "2 + 2?", "answer": "4"},
        {"conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a cat"}]},
    ]
    lines[3]["image"] = "img/a.png"
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = converted(tmp_path / "a.jsonl", tmp_path / "out")
    assert [row["reward_model"]["verifier"] for row in rows] == ["mathverify", "exact", "mathverify", "exact"]
    assert [row["reward_model"]["ground_truth"] for row in rows][:2] == ["\\boxed{12}", "\\boxed{exit}"]
    texts = [row["prompt"][0]["content"] for row in rows]
    assert texts[0] == "<image>How many?" and texts[2] == "2 + 2?"
    assert texts[1] == "<image>Which word?\nPut the final answer in \\boxed{}."
    assert texts[3].count("<image>") == 1 and len(rows[2]["images"]) == 0


def test_of_a_gsm8k_answer_what_follows_the_last_hashes_is_the_truth(tmp_path: Path) -> None:
    lines = [
        {"question": "How many clips?", "answer": "In May 48/2 = <<48/2=24>>24.\n48+24 = <<48+24=72>>72.\n#### 72"},
        {"question": "2?", "answer": "#### 2"},
        {"question": "Which word has 4 letters?", "answer": "It is not the first.\n#### exit"},
    ]
    (tmp_path / "gsm8k.jsonl").write_text("\n".join(map(json.dumps, lines)))
    models = [row["reward_model"] for row in converted(tmp_path / "gsm8k.jsonl", tmp_path / "out")]
    assert [model["ground_truth"] for model in models] == ["\\boxed{72}", "\\boxed{2}", "\\boxed{exit}"]
    assert [model["verifier"] for model in models] == ["mathverify", "mathverify", "exact"]


def test_easy_r1_and_verl_tables_keep_their_turns_and_truths(tmp_path: Path) -> None:
    easy = pa.Table.from_pylist(
        [{"images": [{"bytes": png(), "path": None}], "problem": "<image>Area?", "answer": "9"}]
    )
    pq.write_table(easy, tmp_path / "easy.parquet")
    (row,) = converted(tmp_path / "easy.parquet", tmp_path / "one", ability="math")
    assert (row["prompt"], row["ability"]) == ([{"content": "<image>Area?", "role": "user"}], "math")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>Area?"}]
    verl = {
        "data_source": "geo3k",
        "prompt": turns,
        "images": [{"bytes": png()}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "9"},
        "extra_info": {"index": 0, "split": "train"},
    }
    pq.write_table(pa.Table.from_pylist([verl]), tmp_path / "verl.parquet")
    (row,) = converted(tmp_path / "verl.parquet", tmp_path / "two")
    assert row["data_source"] == "geo3k" and row["prompt"] == [
        {"content": t["content"], "role": t["role"]} for t in turns
    ]
    assert row["reward_model"]["ground_truth"] == "\\boxed{9}"


def test_content_in_parts_is_its_texts_with_a_mark_where_an_image_stands(tmp_path: Path) -> None:
    """The form of Hugging Face's and TRL's VLM data sets; parquet gives each part the fields of all."""
    parts = [{"type": "text", "text": "See "}, {"type": "image"}, {"type": "text", "text": ": how many red bars?"}]
    row = {
        "prompt": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": parts},
        ],
        "images": [{"bytes": png(), "path": None}],
        "solution": "3",
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "trl.parquet")
    (tmp_path / "img").mkdir()
    (tmp_path / "img/a.png").write_bytes(png())
    messages = [
        {"role": "user", "content": [{"type": "image", "image": "img/a.png"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "5"}]},
    ]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": messages}))
    (trl,) = converted(tmp_path / "trl.parquet", tmp_path / "one")
    (talk,) = converted(tmp_path / "talk.jsonl", tmp_path / "two")
    assert [turn["content"] for turn in trl["prompt"]] == ["Be brief.", "See <image>: how many red bars?"]
    assert [turn["content"] for turn in talk["prompt"]] == ["<image>What?"]
    assert (talk["images"][0]["bytes"], talk["reward_model"]["ground_truth"]) == (png(), "\\boxed{5}")


@pytest.mark.parametrize(
    ("prompt", "answer", "reason"),
    [
        ([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}], "1", "a part of type 'video'"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "1", "a part of type 'text'"),
        ([{"role": "user", "content": [7]}], "1", "a part that is a int without a type"),
        ([{"role": "user", "content": {"text": "1?"}}], "1", "content is a dict"),
        ([{"role": "user", "content": [{"type": "image"}]}], "1", "1 for 0"),
        ([{"content": "1?"}], "1", "role is null"),
        ([], "1", "the prompt has no turns"),
        (["1?"], "1", "a turn is a str"),
        ({"text": "1?"}, "1", "the question is a dict"),
        ("1?", ["1", "one"], "the answer is a list"),
    ],
)
def test_what_is_no_text_is_left_out_and_never_written_as_python_shows_it(
    tmp_path: Path, prompt: object, answer: object, reason: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": prompt, "answer": answer}))
    (draft,) = CONVERTERS["table"](tmp_path / "a.jsonl", Options("mine"))
    with pytest.raises(BadSample, match=reason):
        draft.make()


def test_a_saved_data_set_of_the_datasets_library_is_a_table(tmp_path: Path) -> None:
    """`save_to_disk` writes an Arrow stream, its state and its description; `cache-*.arrow` are left-overs."""
    table = pa.Table.from_pylist([{"image": {"bytes": png(), "path": "x.png"}, "query": "How many?", "label": "3"}])
    for name in ("data-00000-of-00001.arrow", "cache-1.arrow"):
        (tmp_path / "saved").mkdir(exist_ok=True)
        with pa.ipc.new_stream(tmp_path / "saved" / name, table.schema) as stream:
            stream.write_table(table)
    (tmp_path / "saved/state.json").write_text("{}")
    (row,) = converted(tmp_path / "saved", tmp_path / "out")
    assert row["prompt"][0]["content"] == "<image>How many?" and row["reward_model"]["answer"] == "3"


def test_vlmevalkit_rows_share_images_and_have_options(tmp_path: Path) -> None:
    image = base64.b64encode(png(56, 56)).decode()
    rows = [
        {"index": "0", "image": image, "question": "Which?", "A": "cat", "B": "dog", "answer": "B"},
        {"index": "1000000", "image": "0", "question": "Which?", "A": "dog", "B": "cat", "answer": "A"},
        {"index": "2", "image": "77", "question": "Which?", "A": "dog", "B": "cat", "answer": "A"},
    ]
    with (tmp_path / "bench.tsv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    first, second = converted(tmp_path / "bench.tsv", tmp_path / "out")
    assert first["images"][0]["bytes"] == second["images"][0]["bytes"] == png(56, 56)
    assert first["prompt"][0]["content"].startswith("<image>Which?\nA. cat\nB. dog\n")
    assert (first["reward_model"]["verifier"], second["reward_model"]["ground_truth"]) == ("choice", "\\boxed{A}")
