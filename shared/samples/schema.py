"""The one schema of a row: the columns of Orsta-Data-47k, which other columns can stand for them, and casting a row.

Source of the schema: the public description of Orsta-Data-47k (One-RL-to-See-Them-All on Hugging Face). The monitor
checks a job's files with it at submit, the data service casts what it reads, demo and `triune data convert` write it.

A column is cast where nothing is lost, and otherwise named: any width of text, number, list or binary, dictionaries
(pandas' categories) and run-end encoding, decimals for ratios (DuckDB's literals), whole numbers and decimals for text
(ids, answers), null-typed columns for what may be absent. `images` may be absent, null, one image or a list, `image` is
another name for it, and an image is a struct of bytes and path, bytes alone, or a path or URI alone.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa

from shared.errors import BadSample

RATIO_NAMES = ("iou_max_label_first", "iou_max_iou_first", "iou_completeness", "map", "map50", "map75")
"""Fields of `det_reward_ratio`."""
REQUIRED = ("data_source", "prompt", "reward_model", "reward_model.ground_truth", "reward_model.verifier")
"""Columns without which no row can be used; the others have defaults."""
IMAGE_COLUMNS = ("images", "image")
"""Where a row's images stand; the first of them that a file has."""


def columns_of(schema: pa.Schema) -> list[str]:
    """The columns of a file that are read."""
    names = [name for name in SCHEMA.names if name in schema.names and name != "images"]
    return names + [name for name in IMAGE_COLUMNS if name in schema.names][:1]


def in_one_sentence(faults: Iterable[str]) -> str:
    """Faults of a file's columns, and what makes another data set's columns these."""
    told = "; ".join(faults)
    return f"{told}. `triune data convert` makes such a file of verl's, TRL's or a plain table's columns"


def without(missing: set[str], row: Mapping[str, Any]) -> set[str]:
    """The columns `missing` (inner ones with a dot) that have no value in `row` either."""
    return {path for path in missing if not _has(row, path)}


def absences(missing: set[str]) -> Iterator[str]:
    """One sentence a column of `missing`; an inner one of a column that is missing is not named."""
    for path in REQUIRED:
        if path in missing and path.partition(".")[0] not in missing - {path}:
            yield f"column {path} is missing"


def _has(row: Any, path: str) -> bool:
    name, _, inner = path.partition(".")
    value = row.get(name) if isinstance(row, Mapping) else None
    return value is not None and (not inner or _has(value, inner))


def schema_faults(schema: pa.Schema) -> Iterator[str]:
    """Why no row of a file with this schema can be cast, one sentence each."""
    for field in SCHEMA:
        if field.name == "images":
            for name in columns_of(schema):
                if name in IMAGE_COLUMNS:
                    yield from _image_faults(schema.field(name).type, name)
        elif field.name in schema.names:
            yield from _faults(schema.field(field.name).type, field.type, field.name)
        elif field.name in REQUIRED:
            yield f"column {field.name} is missing"


def _faults(actual: pa.DataType, expected: pa.DataType, path: str) -> Iterator[str]:
    actual = _plain(actual)
    if pa.types.is_null(actual) and path not in REQUIRED:
        return
    if _kind(actual) not in _CASTS[_kind(expected)]:
        yield f"column {path} is {_short(actual)}; expected {_short(expected)}"
    elif pa.types.is_struct(expected):
        names = [field.name for field in actual]
        for field in expected:
            inner = f"{path}.{field.name}"
            if field.name in names:
                yield from _faults(actual.field(field.name).type, field.type, inner)
            elif inner in REQUIRED or path == "prompt":
                yield f"column {inner} is missing"
    elif pa.types.is_list(expected):
        yield from _faults(actual.value_type, expected.value_type, path)


def _image_faults(actual: pa.DataType, path: str) -> Iterator[str]:
    """An image or a list of them: a struct with bytes or path, bytes, text; null where all rows are text alone."""
    image = _plain(actual)
    if _kind(image) == "list":
        image = _plain(image.value_type)
    if _kind(image) == "struct":
        inner = {field.name: _kind(_plain(field.type)) for field in image if field.name in ("bytes", "path")}
        known = {"bytes": ("bytes", "null"), "path": ("text", "null")}
        if inner and all(kind in known[name] for name, kind in inner.items()):
            return
    elif _kind(image) in ("bytes", "text", "null"):
        return
    yield f"column {path} is {_short(actual)}; expected {_short(SCHEMA.field('images').type)}"


_CASTS = {
    "text": ("text", "integer", "decimal"),
    "bytes": ("bytes",),
    "number": ("number", "integer", "decimal"),
    "list": ("list",),
    "struct": ("struct",),
    "bool": ("bool",),
}
"""Kinds of columns that are cast to each kind of the schema."""

_KINDS = {
    "null": (pa.types.is_null,),
    "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    "bytes": (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
    ),
    "integer": (pa.types.is_integer,),
    "decimal": (pa.types.is_decimal,),
    "number": (pa.types.is_floating,),
    "list": (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    ),
    "struct": (pa.types.is_struct,),
    "bool": (pa.types.is_boolean,),
}


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values, whatever they are encoded or annotated as."""
    while True:
        if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def _kind(kind: pa.DataType) -> str:
    # a decimal is a fixed-size binary to arrow's own test, so it comes first
    if pa.types.is_decimal(kind):
        return "decimal"
    return next((name for name, checks in _KINDS.items() if any(check(kind) for check in checks)), str(kind))


def cast_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as read, with each field as `SCHEMA` has it; what the schema does not know inside a struct stays.

    Raises BadSample that names the first field whose value cannot be cast without a loss.
    """
    images = next((row[name] for name in IMAGE_COLUMNS if row.get(name) is not None), None)
    fields = (field for field in SCHEMA if field.name != "images")
    return {field.name: _cast(row.get(field.name), field.type, field.name) for field in fields} | {
        "images": _cast_images(images)
    }


def _cast(value: Any, kind: pa.DataType, path: str) -> Any:
    if value is None:
        return None
    if pa.types.is_struct(kind) and isinstance(value, Mapping):
        return {**value} | {
            field.name: _cast(value.get(field.name), field.type, f"{path}.{field.name}") for field in kind
        }
    if pa.types.is_list(kind) and isinstance(value, list | tuple):
        return [_cast(item, kind.value_type, path) for item in value]
    if pa.types.is_string(kind) and isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        return str(value)
    if pa.types.is_floating(kind) and isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return float(value)
    if pa.types.is_boolean(kind) and isinstance(value, bool):
        return value
    raise BadSample(f"{path} is {_shown(value)}; expected {_short(kind)}")


def _cast_images(value: Any) -> list[dict[str, Any]]:
    """Images as structs of bytes and path; a null in a list stays and has neither."""
    if value is None:
        return []
    items = value if isinstance(value, list | tuple) else [value]
    return [_cast_image(item, number) for number, item in enumerate(items)]


def _cast_image(item: Any, number: int) -> dict[str, Any]:
    match item:
        case None:
            return {"bytes": None, "path": None}
        case bytes():
            return {"bytes": item, "path": None}
        case str():
            return {"bytes": None, "path": item}
        case Mapping():
            data, path = item.get("bytes"), item.get("path")
            if isinstance(data, bytes | None) and isinstance(path, str | None):
                return {"bytes": data, "path": path}
    raise BadSample(f"image {number} is {_shown(item)}; expected bytes, a path, or a struct of both")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
