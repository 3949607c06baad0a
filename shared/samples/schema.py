"""Files of a data set: the schema of Orsta-Data-47k, and what can be told of a file without decoding its rows.

The monitor checks a job's files with it at submit, the data service before it reads them, the demo writes with it.
Source of the schema: the public description of Orsta-Data-47k (One-RL-to-See-Them-All on Hugging Face).
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import BadData

RATIO_NAMES = ("iou_max_label_first", "iou_max_iou_first", "iou_completeness", "map", "map50", "map75")
"""Fields of `det_reward_ratio`."""
REQUIRED = ("data_source", "images", "prompt", "reward_model", "reward_model.ground_truth", "reward_model.verifier")
"""Columns without which no row can be used; the others have defaults."""
READ_ERRORS = (OSError, pa.ArrowException)
"""What pyarrow raises for a file that is torn, foreign or unreadable."""


@dataclass(frozen=True)
class DataFile:
    """A readable parquet file with the schema; `groups` are the rows of each row group."""

    path: Path
    groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.groups)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file, or with one of its rows (counted from 0)."""

    file: str
    row: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}" if self.row is None else f"{self.file}: row {self.row}: {self.reason}"


def open_files(patterns: Sequence[str], *, roots: Sequence[Path] = ()) -> list[DataFile]:
    """The files that `patterns` name, in a fixed order; raises BadData, one line for every bad file or pattern."""
    files, problems = inspect_files(patterns, roots=roots)
    if problems:
        raise BadData("\n".join(map(str, problems)))
    return files


def inspect_files(patterns: Sequence[str], *, roots: Sequence[Path] = ()) -> tuple[list[DataFile], list[Problem]]:
    """The good files that `patterns` name, and one problem for each file or pattern that cannot be used."""
    paths, problems = expand(patterns, roots=roots)
    files = []
    for path in paths:
        try:
            files.append(_read_footer(path))
        except BadData as error:
            problems.append(Problem(str(path), None, str(error)))
    return files, problems


def expand(patterns: Iterable[str], *, roots: Sequence[Path] = ()) -> tuple[list[Path], list[Problem]]:
    """Files, folders (all `*.parquet` below) and glob patterns as paths, each once; and what was wrong with them.

    With `roots`, a path that leads outside all of them is a problem, links followed.
    """
    paths: dict[Path, Path] = {}
    problems = []
    for pattern in patterns:
        found = _matches(pattern)
        if not found:
            problems.append(Problem(pattern, None, "no such file, or no parquet file matches it"))
        for path in found:
            if roots and not any(path.resolve().is_relative_to(root) for root in roots):
                reason = f"lies outside the data roots {', '.join(map(str, roots))}"
                problems.append(Problem(str(path), None, reason))
            else:
                paths.setdefault(path.resolve(), path)
    return list(paths.values()), problems


def _matches(pattern: str) -> list[Path]:
    """The files that a pattern of a job names; none for text that is no path or pattern at all."""
    if not pattern:
        return []
    path = Path(pattern)
    try:
        if path.is_dir():
            return sorted(path.rglob("*.parquet"))
        if path.is_file():
            return [path]
        anchor = path.anchor or "."
        return sorted(found for found in Path(anchor).glob(str(path.relative_to(path.anchor))) if found.is_file())
    except (OSError, ValueError):  # a name too long for the system, a null byte, `**` inside a name
        return []


def open_file(path: Path) -> DataFile:
    """The file's footer, checked; raises BadData: unreadable, no rows, a column missing or of another type."""
    try:
        return _read_footer(path)
    except BadData as error:
        raise BadData(f"{path}: {error}") from error


def _read_footer(path: Path) -> DataFile:
    try:
        with pq.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            groups = tuple(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
    except READ_ERRORS as error:
        raise BadData(f"cannot be read as parquet: {first_line(error)}") from error
    faults = list(_schema_faults(schema))
    if faults:
        raise BadData("; ".join(faults))
    if not sum(groups):
        raise BadData("has no rows")
    return DataFile(path, groups)


def first_line(error: BaseException) -> str:
    """An error's text as part of a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def group_sources(file: DataFile, group: int) -> list[str]:
    """`source_name` of every row of one row group; only that column is read. Raises BadData."""
    try:
        with pq.ParquetFile(file.path) as parquet:
            values = parquet.read_row_group(group, columns=["data_source"], use_threads=False)[0].to_pylist()
    except READ_ERRORS as error:
        raise BadData(f"{file.path}: row group {group} cannot be read: {first_line(error)}") from error
    names = {value: source_name(value) for value in set(values)}
    return [names[value] for value in values]


def count_rows(files: Iterable[DataFile]) -> dict[str, int]:
    """Rows by source name, over all files; raises BadData."""
    counts: Counter[str] = Counter()
    for file in files:
        for group in range(len(file.groups)):
            counts.update(group_sources(file, group))
    return dict(sorted(counts.items()))


def source_name(data_source: str | None) -> str:
    """`data_source` as a source's name: lower-case, and `_` for `/` and whatever else is not a letter, digit, - or _.

    A row without a name counts under `unknown`. V-Triune replaces the slash only.
    """
    return re.sub(r"[^a-z0-9_-]", "_", (data_source or "").strip().lower()) or "unknown"


def _schema_faults(schema: pa.Schema) -> Iterator[str]:
    for field in SCHEMA:
        if field.name in schema.names:
            yield from _faults(schema.field(field.name).type, field.type, field.name)
        elif field.name in REQUIRED:
            yield f"column {field.name} is missing"


def _faults(actual: pa.DataType, expected: pa.DataType, path: str) -> Iterator[str]:
    if pa.types.is_null(actual) and path not in REQUIRED:
        return
    if _kind(actual) != _kind(expected):
        yield f"column {path} is {_short(actual)}; expected {_short(expected)}"
    elif pa.types.is_struct(expected):
        names = [field.name for field in actual]
        for field in expected:
            inner = f"{path}.{field.name}"
            if field.name in names:
                yield from _faults(actual.field(field.name).type, field.type, inner)
            elif inner in REQUIRED or path in ("images", "prompt"):
                yield f"column {inner} is missing"
    elif pa.types.is_list(expected):
        yield from _faults(actual.value_type, expected.value_type, path)


def _kind(kind: pa.DataType) -> str:
    """Types that read alike are one kind: small and large lists, strings and dictionaries of them, all numbers."""
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    tests = {
        "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        "bytes": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
        "number": (pa.types.is_floating, pa.types.is_integer),
        "list": (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
        "struct": (pa.types.is_struct,),
        "bool": (pa.types.is_boolean,),
    }
    return next((name for name, checks in tests.items() if any(check(kind) for check in checks)), str(kind))


def _short(kind: pa.DataType) -> str:
    """The type in words that fit a line, list<struct<content: string, role: string>>, without arrow's `element:`."""
    text = re.sub(r"list<\w+: ", "list<", str(kind))
    return text if len(text) <= 120 else f"{text[:117]}..."


def _schema() -> pa.Schema:
    """The columns, with the feature description that the `datasets` library keeps in the metadata of its files."""
    text, real = pa.string(), pa.float32()
    ratios = pa.struct([(name, real) for name in RATIO_NAMES])
    parameters = pa.struct([("det_verifier_normalized", pa.bool_()), ("det_reward_ratio", ratios)])
    reward = [("answer", text), ("ground_truth", text), ("accuracy_ratio", real), ("format_ratio", real)]
    columns = [
        ("data_source", text),
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", text)]))),
        ("prompt", pa.list_(pa.struct([("content", text), ("role", text)]))),
        ("ability", text),
        ("reward_model", pa.struct([*reward, ("verifier", text), ("verifier_parm", parameters)])),
        ("extra_info", pa.struct([("id", text), ("image_path", text)])),
    ]
    bare = pa.schema(columns)
    features = {field.name: _feature(field.name, field.type) for field in bare}
    return bare.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(name: str, kind: pa.DataType) -> Any:
    if name == "images":
        return {"feature": {"_type": "Image"}, "_type": "Sequence"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.name, field.type) for field in kind}
    if pa.types.is_list(kind):
        return [_feature("", kind.value_type)]
    dtype = {"float": "float32"}.get(str(kind), str(kind))
    return {"dtype": dtype, "_type": "Value"}


SCHEMA = _schema()
"""The columns of Orsta-Data-47k with their `datasets` features."""
