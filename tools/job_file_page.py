"""`docs/job-file.md` from `shared/jobs/spec.py`: `python -m tools.job_file_page > docs/job-file.md`."""

import sys
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from shared.jobs.spec import JobSpec, Section

HEAD = """# The job file

A training run is one TOML file. Every key has the default below; an unknown key is an error that names the nearest
known one; all mistakes are listed at once. This page is generated from the code: `python -m tools.job_file_page`.

`POST /v1/jobs:validate` checks a file without starting anything, and answers with the numbers that follow from it.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_section(JobSpec, "")])


def _section(kind: type[Section], path: str) -> Iterator[str]:
    fields = msgspec.structs.fields(kind)
    plain = [field for field in fields if not _is_table(field.type)]
    if path:
        yield f"## `[{path}]`\n\n{(kind.__doc__ or '').strip()}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for field in plain:
        yield f"| `{field.name}` | {_type(field.type)} | {_default(field)} | {_meaning(field.type)} |"
    yield ""
    for field in fields:
        if field.name == "sources":
            yield from _section(
                get_args(field.type if get_origin(field.type) is dict else get_args(field.type)[0])[1], "sources.NAME"
            )
        elif _is_table(field.type):
            yield from _section(field.type, f"{path}.{field.name}" if path else field.name)


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_table(kind: Any) -> bool:
    bare = _bare(kind)
    return get_origin(bare) is dict or (isinstance(bare, type) and issubclass(bare, Section))


def _type(kind: Any) -> str:
    bare = _bare(kind)
    origin = get_origin(bare)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(bare))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in get_args(bare) if part is not type(None))
    if origin is list:
        return f"list of {_type(get_args(bare)[0])}"
    if origin is tuple:
        return f"({', '.join(_type(part) for part in get_args(bare))})"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true/false"}[bare.__name__]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return "absent" if value is None else f"`{msgspec.json.encode(value).decode()}`"


def _meaning(kind: Any) -> str:
    metas = [part for part in get_args(kind)[1:] if isinstance(part, msgspec.Meta)]
    return next((meta.description for meta in metas if meta.description), "").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
