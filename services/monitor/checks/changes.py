"""From the body of a PATCH to changes of a job that can hold, with every mistake at once."""

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal

import msgspec

from services.monitor.analysis.advice import Settings
from shared.errors import BadJob
from shared.jobs.record import Change, JobRecord
from shared.jobs.spec import JobSpec
from shared.jobs.weights import planned_weights, weight_mistakes

_WHOLE = {"max_staleness": 0, "total_steps": 1}
"""Keys whose values are whole numbers, with the smallest one."""
_LARGEST = 10**9
_CHANGEABLE = "max_staleness, total_steps and sources.<name>.weight"


def read_changes(document: Mapping[str, Any], sources: Collection[str]) -> list[Change]:
    """The changes that a PATCH asks for; raises BadJob with every mistake.

    Keys are `max_staleness`, `total_steps` and `sources.<name>.weight`, the last one also as nested tables.
    """
    mistakes: list[str] = []
    changes = []
    now = time.time()
    for key, value in _flat(document):
        mistake = _change_mistake(key, value, sources)
        if mistake:
            mistakes.append(mistake)
        else:
            changes.append(Change(key=key, value=int(value) if key in _WHOLE else float(value), requested_at=now))
    if not changes and not mistakes:
        mistakes.append(f"the body changes nothing; what can be changed is {_CHANGEABLE}")
    if mistakes:
        raise BadJob(mistakes)
    return changes


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _change_mistake(key: str, value: Any, sources: Collection[str]) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if key in _WHOLE:
        if is_number and value == int(value) and _WHOLE[key] <= value <= _LARGEST:
            return None
        return f"{key} is {value!r}; expected a whole number from {_WHOLE[key]} to {_LARGEST}"
    if key.startswith("sources.") and key.endswith(".weight"):
        name = key.removeprefix("sources.").removesuffix(".weight")
        if sources and name not in sources:
            near = get_close_matches(name, sources, n=1, cutoff=0.0)[0]
            return f"{key}: the job has no source {name!r}; the nearest one is {near!r}"
        is_fit = is_number and 0 <= value <= _LARGEST
        return None if is_fit else f"{key} is {value!r}; expected a number from 0 to {_LARGEST}"
    return f"{key!r} cannot be changed while a job runs; what can be is {_CHANGEABLE}"


def with_changes(record: JobRecord, changes: Iterable[Change]) -> JobRecord:
    return msgspec.structs.replace(record, changes=[*record.changes, *changes])


def newest(record: JobRecord, key: str, otherwise: float) -> float:
    """The value of `key` under all changes asked for, whether they hold yet or not."""
    return next((change.value for change in reversed(record.changes) if change.key == key), otherwise)


def changed_spec(record: JobRecord) -> JobSpec:
    """The job file with `max_staleness` and `total_steps` as asked for last."""
    spec = record.spec
    staleness = int(newest(record, "max_staleness", spec.algorithm.max_staleness))
    return msgspec.structs.replace(
        spec,
        total_steps=int(newest(record, "total_steps", spec.total_steps)),
        algorithm=msgspec.structs.replace(spec.algorithm, max_staleness=staleness),
    )


def held_from(key: str) -> Literal["step", "ordinal"]:
    """What a change's `since` counts: training steps, or ordinals for the weight of a source."""
    return "step" if key in _WHOLE else "ordinal"


def step_mistakes(record: JobRecord, step: int) -> list[str]:
    """Whether the job's steps, as asked for last, end before the `step` that it has made."""
    wanted = int(newest(record, "total_steps", record.spec.total_steps))
    if wanted >= step:
        return []
    return [f"total_steps is {wanted}, but the job has made {step} steps; expected at least {step}"]


def weights_left(record: JobRecord, sources: Iterable[str], step: int) -> list[str]:
    """Whether from `step` on no source of the training files is left to train on."""
    keys = {name: f"sources.{name}.weight" for name in sources}
    changed = {change.key for change in record.changes}
    asked = {name: float(newest(record, key, 1.0)) for name, key in keys.items() if key in changed}
    return weight_mistakes(planned_weights(record.spec, keys, asked=asked, since=step))


def settings_now(record: JobRecord) -> Settings:
    """The settings that the advice reads, as asked for last."""
    spec = changed_spec(record)
    names = {
        *spec.sources,
        *(key.split(".")[1] for key in (c.key for c in record.changes) if key.startswith("sources.")),
    }
    default = {name: source.weight for name, source in spec.sources.items()}
    weights = {name: float(newest(record, f"sources.{name}.weight", default.get(name, 1.0))) for name in names}
    return Settings(spec.algorithm.max_staleness, weights)
