"""Runs beside each other: the settings in which they differ, held-out rewards with standard errors, and repetitions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from services.monitor.history.queries import Rewards, reading
from shared.jobs.flat import Flat, flat
from shared.jobs.record import JobRecord

_REPEATED = ("seed", "name")
"""Keys in which repetitions of one experiment may differ; so may what the monitor does with the numbers."""


@dataclass(frozen=True)
class Mean:
    """A mean over `n` held-out groups with its standard error s/√n (null for fewer than two)."""

    value: float
    error: float | None
    n: int


@dataclass(frozen=True)
class HeldOut:
    """Greedy held-out reward of one source in one run.

    `change` is of the samples judged at both versions, pair by pair: its error is s(after − before)/√n, which is
    smaller than that of two unrelated means. Null where an evaluation is missing.
    """

    before: Mean | None
    after: Mean | None
    change: Mean | None


@dataclass(frozen=True)
class SourceRow:
    """One source in every run that has it."""

    source: str
    task: str
    runs: dict[str, HeldOut]


@dataclass(frozen=True)
class SettingRow:
    """One key of the job file in every run; null: the run has no such key."""

    key: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Several runs beside each other; `repetitions` are the lists of runs that differ in their seeds alone."""

    jobs: list[str]
    settings: list[SettingRow]
    sources: list[SourceRow]
    repetitions: list[list[str]]


def compare(records: Sequence[JobRecord], runs: Path) -> Comparison:
    """The runs of `records`, whose folders are below `runs`."""
    settings = {record.id: settings_of(record) for record in records}
    held_out = {record.id: _held_out(runs / record.id) for record in records}
    return Comparison(
        jobs=[record.id for record in records],
        settings=differing(settings),
        sources=_by_source(held_out),
        repetitions=repetitions(settings),
    )


def settings_of(record: JobRecord) -> Flat:
    """A job's keys with their values, each change made while it ran as `key (changed)`."""
    changes = {f"{change.key} (changed)": change.value for change in record.changes}
    return flat(msgspec.to_builtins(record.spec)) | changes


def differing(settings: Mapping[str, Flat]) -> list[SettingRow]:
    """The keys whose values are not the same in all runs, in order of their names."""
    keys = sorted({key for of_run in settings.values() for key in of_run})
    rows = [SettingRow(key, {job: of_run.get(key) for job, of_run in settings.items()}) for key in keys]
    return [row for row in rows if any(value != next(iter(row.values.values())) for value in row.values.values())]


def repetitions(settings: Mapping[str, Flat]) -> list[list[str]]:
    """Runs that differ in nothing but their seeds (and names), together; each run is in one list."""
    lists: list[tuple[Flat, list[str]]] = []
    for job, of_run in settings.items():
        rest = {key: value for key, value in of_run.items() if key not in _REPEATED and not key.startswith("monitor.")}
        alike = next((jobs for known, jobs in lists if known == rest), None)
        if alike is None:
            lists.append((rest, [job]))
        else:
            alike.append(job)
    return [jobs for _, jobs in lists]


def _held_out(folder: Path) -> dict[tuple[str, str], HeldOut]:
    """By source and task."""
    with reading(folder) as reader:
        if reader is None:
            return {}
        versions = [done["version"] for done in reader.evaluations()]
        first = reader.held_out_rewards(versions[0]) if versions else {}
        last = reader.held_out_rewards(versions[-1]) if len(versions) > 1 else {}
        tasks = reader.tasks()
        return {(source, tasks.get(source, "")): _of_source(first, last, source) for source in sorted(first | last)}


def _of_source(first: Rewards, last: Rewards, source: str) -> HeldOut:
    before, after = first.get(source, {}), last.get(source, {})
    both = [after[ordinal] - before[ordinal] for ordinal in before.keys() & after.keys()]
    return HeldOut(mean_of(list(before.values())), mean_of(list(after.values())), mean_of(both))


def mean_of(values: Sequence[float]) -> Mean | None:
    """The mean of `values` with its standard error, from the sample's variance (n − 1); None of nothing."""
    n = len(values)
    if not n:
        return None
    mean = sum(values) / n
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n) if n > 1 else None
    return Mean(mean, error, n)


def _by_source(held_out: Mapping[str, dict[tuple[str, str], HeldOut]]) -> list[SourceRow]:
    names = sorted({name for of_run in held_out.values() for name in of_run})
    return [
        SourceRow(
            source, task, {job: of_run[source, task] for job, of_run in held_out.items() if (source, task) in of_run}
        )
        for source, task in names
    ]
