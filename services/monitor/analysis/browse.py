"""Looking into a run: curves, thinned for the eye, and samples, by what is wanted of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from services.monitor.analysis.advice import Line, Settings, advise
from services.monitor.analysis.audit import audit
from services.monitor.analysis.diagnostics import NEEDED, At, Curves, diagnose
from services.monitor.history.queries import Reader, reading
from services.monitor.history.samples import evaluation_file, read_part, step_file
from services.monitor.values.answers import answers_of
from services.monitor.values.columns import Sample, sample_table
from shared.messages import Scored, decode

POINTS_IN_AN_ANSWER = 200_000
"""Points of all curves of one answer together."""
POINTS_IN_A_RULE = 20_000
"""Points of one series that the diagnostics read; a longer one is thinned."""
_HIDDEN = ("token_ids", "log_probs", "prompt_ids")
"""Columns that are in the files alone."""


class Point(msgspec.Struct, frozen=True, gc=False):
    """One value; `time` in seconds since the epoch."""

    step: int
    time: float
    value: float


class Series(msgspec.Struct, frozen=True):
    """One curve."""

    name: str
    source: str
    task: str
    points: list[Point]


def find_series(
    folder: Path,
    wanted: tuple[str | None, str | None, str | None],
    steps: tuple[int | None, int | None],
    max_points: int,
) -> list[Series]:
    """The curves whose name, source and task are as `wanted` (None: any), each of `max_points` points at most."""
    with reading(folder) as reader:
        if reader is None:
            return []
        found = reader.find_series(*wanted)
        limit = max(2, min(max_points, POINTS_IN_AN_ANSWER // max(1, len(found))))
        return [
            Series(name, source, task, [Point(*point) for point in reader.thinned(number, steps, limit)])
            for number, name, source, task in found
        ]


def find_advice(folder: Path, settings: Settings) -> list[Line]:
    """What the curves of a run say, one line a rule."""
    with reading(folder) as reader:
        if reader is None:
            return []
        by_name: dict[str, dict[str, list[At]]] = {}
        for name in NEEDED:
            for number, _, source, task in reader.find_series(name, None, None):
                if not task:  # of a source, or of all
                    points = reader.thinned(number, (None, None), POINTS_IN_A_RULE)
                    by_name.setdefault(name, {})[source] = [At(step, value) for step, _, value in points]
        curves = Curves(by_name)
        return advise([*diagnose(curves), *audit(curves)], curves, settings)


class Wanted(NamedTuple):
    """What samples must be; None: anything. `step` trained it, `version` was evaluated with it."""

    source: str | None = None
    kind: str | None = None
    step: int | None = None
    version: int | None = None
    ordinal: int | None = None
    state: str | None = None
    errors: bool | None = None
    min_reward: float | None = None
    max_reward: float | None = None


class Page(NamedTuple):
    """Samples, newest first, as JSON-ready rows; `next` is the `before` of the page behind; None: this is the last."""

    samples: list[dict[str, Any]]
    next: int | None


def find_samples(folder: Path, wanted: Wanted, limit: int, before: int | None = None) -> Page:
    """At most `limit` groups, from below the id `before` on."""
    with reading(folder) as reader:
        if reader is None:
            return Page([], None)
        groups = reader.find_groups(wanted._asdict(), limit + 1, before)
        shown = groups[:limit]
        rows = [_shown(row) for row in _rows(folder, reader, shown)]
        return Page(rows, shown[-1]["id"] if len(groups) > limit else None)


def _rows(folder: Path, reader: Reader, groups: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The row of each group, from its file or, before its step is done, from the store."""
    by_file: dict[str, list[int]] = {}
    for group in groups:
        by_file.setdefault(_file_of(group), []).append(group["ordinal"])
    filed: dict[tuple[str, int], dict[str, Any]] = {}
    for name, ordinals in by_file.items():
        for row in read_part(folder, name, ordinals) if name else ():
            filed[name, row["ordinal"]] = row
    for group in groups:
        yield filed.get((_file_of(group), group["ordinal"])) or _pending_row(reader, group)


def _file_of(group: dict[str, Any]) -> str:
    if group["kind"] == "eval":
        return evaluation_file(group["version"])
    return step_file(group["step"]) if group["step"] is not None else ""


def _pending_row(reader: Reader, group: dict[str, Any]) -> dict[str, Any]:
    body = reader.waiting_body(group["kind"], group["version"], group["ordinal"])
    record = decode(body) if body else None
    scored = record if isinstance(record, Scored) else None
    return sample_table([Sample(group, scored)], answers_of([scored] if scored else [])).to_pylist()[0]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    completions = [
        {name: value for name, value in completion.items() if name not in _HIDDEN}
        | {"parts": dict(completion["parts"])}
        for completion in row.get("completions") or []
    ]
    return {name: value for name, value in row.items() if name not in _HIDDEN} | {"completions": completions}
