"""From the body of a request to a job or a change, with every mistake at once."""

import json
import math
import secrets
import time
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from services.monitor.exports.sinks import missing_sinks
from services.monitor.history.report import write_whole
from shared.bus.port import MAX_BODY_BYTES
from shared.errors import BadData, BadJob
from shared.jobs.record import Change, JobRecord, JobStore
from shared.jobs.spec import JobSpec, parse_job, parse_toml, write_toml
from shared.samples.schema import DataFile, count_rows, inspect_files

JOB_NAME = "job.toml"


def parse_document(body: bytes, content_type: str) -> dict[str, Any]:
    """The table in a request's body: JSON, or TOML for any other content type; raises BadJob."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BadJob([f"the body is not UTF-8: {error}"]) from error
    if "json" not in content_type:
        return parse_toml(text)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadJob([f"the body is not JSON: {error}"]) from error
    if not isinstance(document, dict):
        raise BadJob([f"the body is {type(document).__name__} in JSON; expected an object with the job file's keys"])
    return document


def read_submission(body: bytes, content_type: str, roots: Collection[Path]) -> JobSpec:
    """The job in a request's body, its files looked at; raises BadJob with every mistake."""
    spec = parse_job(parse_document(body, content_type))
    mistakes = [*_model_mistakes(spec.model, roots), *_data_mistakes(spec, roots), *missing_sinks(spec.monitor.sinks)]
    if mistakes:
        raise BadJob(mistakes)
    return spec


def _model_mistakes(model: str, roots: Collection[Path]) -> Iterator[str]:
    path = Path(model).expanduser()
    if not (model.startswith(("/", ".", "~")) or path.exists()):
        return  # a hub id
    if not (path / "config.json").is_file():
        yield f"model {model!r}: there is no folder of that name with a config.json"
    elif roots and not any(path.resolve().is_relative_to(root) for root in roots):
        yield f"model {model!r} does not lie under the data roots {', '.join(map(str, roots))}"


def _data_mistakes(spec: JobSpec, roots: Collection[Path]) -> Iterator[str]:
    for key, patterns in (("data.train", spec.data.train), ("data.held_out", spec.data.held_out)):
        files, problems = inspect_files(patterns, roots=tuple(roots))
        yield from (f"{key}: {problem}" for problem in problems)
        if key == "data.train" and not problems and spec.sources:
            yield from _source_mistakes(spec, files)


def _source_mistakes(spec: JobSpec, files: list[DataFile]) -> Iterator[str]:
    """Settings of sources that the training files do not have."""
    try:
        known = count_rows(files)
    except BadData as error:
        yield f"data.train: {error}"
        return
    for name in spec.sources:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            yield f"sources.{name}: the training files have no source {name!r}; the nearest one is {near!r}"
    weights = [spec.sources[name].weight if name in spec.sources else 1.0 for name in known]
    if not any(weights):
        yield "sources: every weight is 0; expected at least one source to be trained on"


LARGEST_RECORD = MAX_BODY_BYTES
"""A larger group goes to the blob store; its record holds a digest."""
JOURNAL_REST = 0.3
"""Share of the journal's bytes that the learner keeps free by its checkpoints."""
_TOKEN_BYTES = 4 + 4 + 4
"""Of a completion's token at most: its id, its log-probability, and about four letters of text."""


def journal_mistakes(spec: JobSpec, max_bytes: int) -> list[str]:
    """Whether the window and one more step of groups fit in the rest of a journal of `max_bytes` (-1: unlimited).

    A full journal never waits for a checkpoint only if they do. Groups count at their largest: every completion as
    long as it may be.
    """
    algorithm = spec.algorithm
    group = algorithm.samples_per_prompt * spec.sampling.max_new_tokens * _TOKEN_BYTES + 4 * spec.data.max_prompt_tokens
    groups = (algorithm.max_staleness + 2) * algorithm.prompts_per_step
    needed, rest = groups * min(group, LARGEST_RECORD), JOURNAL_REST * max_bytes
    if max_bytes < 0 or needed <= rest:
        return []
    return [
        f"the window and one step, {groups} groups, may take {needed / 1e6:.0f} MB of the journal, of which "
        f"{rest / 1e6:.0f} MB are kept free: lower algorithm.prompts_per_step, algorithm.max_staleness or "
        "sampling.max_new_tokens"
    ]


async def create_job(spec: JobSpec, jobs: JobStore, runs: Path) -> JobRecord:
    """A new queued job, its resolved file in its run folder; raises OSError when that cannot be written."""
    record = JobRecord(id=f"{spec.name}-{secrets.token_hex(4)}", spec=spec, state="queued", created_at=time.time())
    write_whole(runs / record.id / JOB_NAME, write_toml(spec))
    await jobs.create(record)
    return record


def read_changes(document: dict[str, Any], sources: Collection[str]) -> list[Change]:
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
            changes.append(Change(key=key, value=float(value), requested_at=now))
    if not changes and not mistakes:
        mistakes.append("the body changes nothing; expected max_staleness, total_steps or sources.<name>.weight")
    if mistakes:
        raise BadJob(mistakes)
    return changes


def _flat(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


_WHOLE = {"max_staleness": 0, "total_steps": 1}
"""Keys whose values are whole numbers, with the smallest one."""


def _change_mistake(key: str, value: Any, sources: Collection[str]) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if key in _WHOLE:
        if is_number and value == int(value) and _WHOLE[key] <= value < 2**31:
            return None
        return f"{key} is {value!r}; expected a whole number of at least {_WHOLE[key]}"
    if key.startswith("sources.") and key.endswith(".weight"):
        name = key.removeprefix("sources.").removesuffix(".weight")
        if sources and name not in sources:
            near = get_close_matches(name, sources, n=1, cutoff=0.0)[0]
            return f"{key}: the job has no source {name!r}; the nearest one is {near!r}"
        return None if is_number and value >= 0 else f"{key} is {value!r}; expected a number of at least 0"
    near = get_close_matches(key, (*_WHOLE, "sources.<name>.weight"), n=1, cutoff=0.0)[0]
    return f"unknown key {key!r}; the nearest one that can be changed is {near!r}"


def with_changes(record: JobRecord, changes: list[Change]) -> JobRecord:
    return msgspec.structs.replace(record, changes=[*record.changes, *changes])
