"""A job's document, TOML or JSON: read into a `JobSpec`, with every mistake that is in it at once, and written back."""

import difflib
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec import UNSET

from shared.errors import BadJob
from shared.jobs.rules import contradictions, touches
from shared.jobs.spec import Data, JobSpec, Section, Source

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True)
class Draft:
    """A job file as far as it can be read: in `spec`, a key with a mistake has its default, or stands for nothing."""

    spec: JobSpec
    mistakes: list[str]
    wrong: frozenset[str]
    """The keys that have a mistake."""

    def has(self, *keys: str) -> bool:
        """Whether none of these keys, or of those in or above them, has a mistake."""
        return not any(touches(key, self.wrong) for key in keys)


def draft_job(document: dict[str, Any]) -> Draft:
    """What can be read of the job in `document`, with every mistake: of its keys, and between those that are right."""
    found = _Found([], set())
    spec = _convert(document, JobSpec, "", found)
    return Draft(spec, [*found.mistakes, *contradictions(spec, found.wrong)], frozenset(found.wrong))


def parse_job(document: dict[str, Any]) -> JobSpec:
    """The job in `document`; raises BadJob that lists every mistake, one sentence each."""
    draft = draft_job(document)
    if draft.mistakes:
        raise BadJob(draft.mistakes)
    return draft.spec


def read_job(path: Path) -> JobSpec:
    """The job in a TOML file; raises BadJob."""
    return parse_job(_read_toml(path))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text())
    except FileNotFoundError:
        raise BadJob([f"job file {path} does not exist"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadJob([f"job file {path} cannot be read: {error}"]) from error


def parse_toml(text: str, what: str = "the job file") -> dict[str, Any]:
    """The document in TOML `text`, which is `what` to its author; raises BadJob with line and column."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadJob([f"{what} is not TOML: {error}"]) from error


def write_toml(spec: JobSpec) -> str:
    """`spec` with every key written out, as TOML that `parse_job` reads back to an equal job."""
    return msgspec.toml.encode(without_none(msgspec.to_builtins(spec))).decode()


def without_none(value: Any) -> Any:
    """The document without keys that hold nothing, which TOML cannot write: they have their default."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return value


class _Found(NamedTuple):
    """Mistakes so far, one sentence each, and the keys that have them."""

    mistakes: list[str]
    wrong: set[str]

    def add(self, path: str, sentence: str) -> None:
        self.mistakes.append(sentence)
        self.wrong.add(path)


_STAND_INS: dict[str, Any] = {"model": "", "total_steps": 1, "data": Data(train=[]), "train": []}
"""For keys without a default, in the draft of a job that lacks them."""


def _convert(document: Any, kind: type[AnySection], path: str, found: _Found) -> AnySection:
    """A struct from a table; what is wrong in it is told to `found` and has its default."""
    if not isinstance(document, dict):
        found.add(path, f"{path or 'the job'} is {document!r}; expected a table")
        document = {}
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key in document.keys() - fields.keys():
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
        found.add(
            _join(path, key), f"unknown key {_join(path, key)!r}; the nearest known one is {_join(path, near[0])!r}"
        )
    values: dict[str, Any] = {name: _STAND_INS[name] for name, field in fields.items() if field.required}
    for name, field in fields.items():
        own = _join(path, name)
        if name in document:
            value = _convert_field(document[name], field.type, own, found)
            values |= {} if value is UNSET else {name: value}
        elif field.required and not touches(path, found.wrong):
            found.add(own, f"{own} is missing")
    return kind(**values)


def _convert_field(value: Any, kind: Any, path: str, found: _Found) -> Any:
    """The value of one key; UNSET when it is wrong."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return _convert(value, kind, path, found)
    if path == "sources" and isinstance(value, dict):
        return {name: _convert(table, Source, f"sources.{name}", found) for name, table in value.items()}
    try:
        converted = msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        reason = str(error)
        is_no_choice = reason.startswith("Invalid enum value")
        reason = f"; {_choices(value, kind)}" if is_no_choice else f": {reason[0].lower()}{reason[1:]}"
        found.add(path, f"{path} is {_shown(value)}{reason}")
        return UNSET
    if isinstance(converted, float) and not math.isfinite(converted):
        found.add(path, f"{path} is {value!r}; expected a finite number")
        return UNSET
    return converted


def _choices(value: Any, kind: Any) -> str:
    """What a value of the type can be, where `value` or an item of it is none of its literals; and the nearest one."""
    parts = list(_parts(kind))
    literals = [part for part in parts if not isinstance(part, type)]
    text = ", ".join(map(repr, literals)) + (" or a number" if float in parts else "")
    wrong = next((item for item in (value if isinstance(value, list) else [value]) if item not in literals), value)
    near = difflib.get_close_matches(str(wrong), [one for one in literals if isinstance(one, str)], n=1, cutoff=0.0)
    nearest = f"; the nearest one to {wrong!r} is {near[0]!r}" if near else ""
    return f"expected {'a list of ' if isinstance(value, list) else ''}{text}{nearest}"


def _parts(kind: Any) -> Iterator[Any]:
    """The literals and the plain types that a type is made of."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    elif isinstance(kind, type):
        yield kind
    else:
        for part in get_args(kind):
            yield from _parts(part)


def _shown(value: Any) -> str:
    """The value as its author wrote it, cut to a sentence's length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
