"""Tables of questions: JSON Lines, parquet and Arrow (the `datasets` library, EasyR1, verl), VLMEvalKit's TSV.

Which column holds what is told by its usual names, or by the options. A row of verl keeps its turns and its truth
(`prompt`, `reward_model.ground_truth`), one of LLaVA its first question and answer (`conversations`).
"""

import base64
import binascii
import csv
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.data.converting.options import Options, read_image
from services.data.converting.reasons import LeftOut
from services.data.converting.rows import Draft, Drafts, Row, answer_row
from services.data.converting.turns import Turn, as_text, first_of, read_turns
from shared.errors import BadData, BadSample
from shared.samples.formats import jsonl
from shared.samples.images import LIMIT_BYTES, read_data_url
from shared.samples.places import READ_ERRORS, Place, first_line
from shared.samples.schema import cast_row, schema_faults

QUESTIONS = ("question", "problem", "query", "instruction", "prompt", "text")
ANSWERS = ("answer", "solution", "response", "label", "output", "ground_truth")
IMAGES = ("images", "image", "image_path", "img", "file_name")
LETTERS = "ABCDEFGH"
_BATCH_ROWS = 16


def drafts(path: Path, options: Options) -> Drafts:
    """In the order of the files' names and rows.

    Raises BadData when a file cannot be read, or a column that an option names is not there.
    """
    files = _files(path)
    _check_columns(path, files, options)
    for file in files:
        if file.suffix == ".tsv":
            yield from _from_tsv(file, options)
            continue
        stem = f"{file.stem}-" if len(files) > 1 else ""
        for number, row in enumerate(_read(file)):
            yield Draft(f"{stem}{number}", partial(_row, row, f"{stem}{number}", file.parent, options))


def _check_columns(path: Path, files: list[Path], options: Options) -> None:
    """Raises BadData when no row has a column that an option names. Of most files the first row tells it."""
    missing, there = options.columns(), dict[str, None]()
    for file in files:
        for row in _tsv_rows(file) if file.suffix == ".tsv" else _read(file):
            there |= dict.fromkeys(row)
            missing = {option: name for option, name in missing.items() if name not in there}
            if not missing or file.suffix != ".jsonl":
                break
    if missing:
        named = ", ".join(f"{option} is {name!r}" for option, name in missing.items())
        raise BadData(f"{path}: {named}; its columns are {', '.join(there)}")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    for suffix in (".parquet", ".arrow", ".jsonl", ".tsv"):
        found = sorted(file for file in path.rglob(f"*{suffix}") if not file.name.startswith("cache-"))
        if found:
            return found
    raise BadData(f"{path}: no table; expected .parquet, .arrow, .jsonl or .tsv")


def _read(file: Path) -> Iterator[Row]:
    """Rows as they stand, a few at a time, whatever the row groups are."""
    try:
        if file.suffix == ".jsonl":
            yield from jsonl.rows(Place(str(file)), 0, sys.maxsize)
        elif file.suffix == ".arrow":
            for batch in _arrow_batches(file):
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    yield from batch.slice(start, _BATCH_ROWS).to_pylist()
        else:
            with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as parquet:
                for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
                    yield from batch.to_pylist()
    except READ_ERRORS as error:
        raise BadData(f"{file}: cannot be read: {first_line(error)}") from error


def _arrow_batches(file: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(file)) as source:
        if source.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            source.seek(0)
            yield from pa.ipc.open_stream(source)


def is_orsta(path: Path) -> bool:
    """Whether the first table of `path` is in the schema already: then its rows are only written anew."""
    file = _files(path)[0]
    if file.suffix == ".jsonl":
        first = next(_read(file), {})
        return isinstance(first.get("reward_model"), Mapping) and "verifier" in first["reward_model"]
    if file.suffix not in (".parquet", ".arrow"):
        return False
    try:
        schema = pq.read_schema(file) if file.suffix == ".parquet" else next(_arrow_batches(file)).schema
    except (*READ_ERRORS, StopIteration) as error:
        raise BadData(f"{file}: cannot be read: {first_line(error)}") from error
    return not list(schema_faults(schema))


def orsta_drafts(path: Path, options: Options) -> Drafts:
    """Rows in the schema already, as they are: in other row groups, and with images that were named by path."""
    files = _files(path)
    for file in files:
        stem = f"{file.stem}-" if len(files) > 1 else ""
        for number, row in enumerate(_read(file)):
            yield Draft(f"{stem}{number}", partial(_orsta_row, row, options.images or file.parent))


def _orsta_row(row: Row, folder: Path) -> Row:
    try:
        cast = cast_row(row)
    except BadSample as error:
        raise LeftOut("a row that does not fit the schema", error) from error
    for image in cast["images"]:
        if image["bytes"] is None and image["path"]:
            image["bytes"], image["path"] = _named_image(image["path"], folder)
    return cast


def _row(row: Row, key: str, folder: Path, options: Options) -> Row:
    *before, question = _turns(row, options)
    inside = [image for turn in (*before, question) for image in turn.images]
    given = row.get("data_source")
    ability = row.get("ability")
    return answer_row(
        source=given if isinstance(given, str) and given else options.source,
        key=key,
        question=question.text,
        answer=_answer(row, options),
        images=_images(row, inside, folder, options),
        ability=ability if isinstance(ability, str) and ability else options.ability,
        verifier=options.verifier,
        turns=[{"role": turn.role, "content": turn.text} for turn in before],
    )


def _column(row: Mapping[str, Any], wanted: str, usual: tuple[str, ...], what: str) -> Any:
    """The value of the column `wanted`, or of the first that has one of the usual names."""
    names = (wanted,) if wanted else usual
    for name in names:
        if row.get(name) is not None:
            return row[name]
    told = f"no {what} in {' or '.join(names)}; the columns are {', '.join(row)}"
    raise BadSample(told if wanted else f"{told}. --{what} COLUMN names another")


def _turns(row: Row, options: Options) -> list[Turn]:
    """The turns before the question, and the question."""
    talk = row.get("conversations") or row.get("messages")
    if isinstance(talk, list) and not options.question:
        return [first_of(talk, ("human", "user"))]
    found = _column(row, options.question, QUESTIONS, "question")
    return read_turns(found) if isinstance(found, list) else [Turn("user", as_text(found, "question"))]


def _answer(row: Row, options: Options) -> str:
    if options.answer:
        return as_text(_column(row, options.answer, (), "answer"), "answer")
    reward, talk = row.get("reward_model"), row.get("conversations") or row.get("messages")
    if isinstance(reward, Mapping) and reward.get("ground_truth") is not None:
        return as_text(reward["ground_truth"], "answer")
    if isinstance(talk, list):
        return first_of(talk, ("gpt", "assistant")).text
    return as_text(_column(row, "", ANSWERS, "answer"), "answer")


def _images(row: Row, inside: list[Any], folder: Path, options: Options) -> list[tuple[bytes, str]]:
    """Those of the images' column, else those that lie `inside` of the turns."""
    name = options.image or next((name for name in IMAGES if row.get(name) is not None), "")
    found = row.get(name) if name else inside
    items = found if isinstance(found, list) else [] if found is None else [found]
    return [_image(item, options.images or folder) for item in items]


def _image(item: Any, folder: Path) -> tuple[bytes, str]:
    match item:
        case bytes():
            return item, ""
        case str():
            return _named_image(item, folder)
        case Mapping():
            data, path = item.get("bytes"), item.get("path") or item.get("image")
            if isinstance(data, bytes):
                return data, str(path or "")
            if isinstance(path, str):
                return _named_image(path, folder)
    raise BadSample(f"an image that is {type(item).__name__}; expected bytes, a path, or a struct of both")


def _named_image(name: str, folder: Path) -> tuple[bytes, str]:
    """The bytes at a path, which begins in `folder`, or in a data URL, which has no name."""
    inside = read_data_url(name)
    return (inside, "") if inside is not None else (read_image(folder / name.removeprefix("file://")), name)


def _from_tsv(file: Path, options: Options) -> Drafts:
    """VLMEvalKit: base64 images, of which a short one is the index of the row that has it; options in A, B, C, …"""
    shared = {row["image"] for row in _tsv_rows(file) if _is_index(row.get("image"))}
    kept: dict[str, str] = {}
    for row in _tsv_rows(file):
        index, image = row.get("index") or "", row.get("image") or ""
        if index in shared:
            kept[index] = image
        image = kept.get(image, "") if _is_index(image) else image
        yield Draft(index, partial(_tsv_row, row, index, image, file.parent, options))


def _tsv_rows(file: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2 * LIMIT_BYTES)
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            yield from csv.DictReader(lines, delimiter="\t", restkey="")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{file}: cannot be read: {error}") from error


def _is_index(image: str | None) -> bool:
    return image is not None and 0 < len(image) <= 64


def _tsv_row(row: dict[str, str], index: str, image: str, folder: Path, options: Options) -> Row:
    question = _column(row, options.question, ("question",), "question")
    answer = _column(row, options.answer, ("answer",), "answer").strip()
    choices = {letter: row[letter] for letter in LETTERS if row.get(letter)}
    listed = "".join(f"\n{letter}. {text}" for letter, text in choices.items())
    hint = f"{row['hint']}\n" if row.get("hint") else ""
    images = []
    if image:
        try:
            images = [(base64.b64decode(image, validate=True), f"{index}.png")]
        except binascii.Error as error:
            raise LeftOut("its image is no base64", f"row {index}, {error}") from error
    elif row.get("image_path"):
        images = [(read_image((options.images or folder) / row["image_path"]), row["image_path"])]
    elif row.get("image"):
        raise LeftOut("its image is that of a row that has none before it", row["image"])
    return answer_row(
        source=options.source,
        key=index,
        question=f"{hint}{question}{listed}",
        answer=answer,
        images=images,
        ability=options.ability,
        verifier=options.verifier,
        has_options=bool(choices),
    )
