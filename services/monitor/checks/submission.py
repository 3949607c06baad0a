"""From the body of a request to a job, with every mistake at once."""

import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from services.monitor.checks.hub import hub_mistake
from services.monitor.exports.sinks import missing_sinks
from services.monitor.history.files import write_whole
from shared.errors import BadData, BadJob
from shared.jobs.document import Draft, draft_job, parse_toml, write_toml
from shared.jobs.record import JobRecord, JobStore
from shared.jobs.spec import JobSpec
from shared.jobs.weights import planned_weights, weight_mistakes
from shared.models.catalog import family_in
from shared.models.memory import DEVICES, GIB, estimate, largest_shape, misfit, read_architecture
from shared.runtime.http import is_loopback
from shared.samples.files import DataFile, count_rows, inspect_files
from shared.samples.places import ANYWHERE, Roots
from shared.samples.plugins import find_plugin, verifiers_in

JOB_NAME = "job.toml"
HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
"""What the hub takes for the id of a model; whether it has it, it is asked (`hub`)."""


def parse_document(body: bytes, content_type: str, what: str = "the job file") -> dict[str, Any]:
    """The table in a request's body, which is `what` to its author; raises BadJob.

    It is JSON where its type says so, or where it begins with `{`, as no TOML does (curl sends forms); else TOML.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BadJob([f"the body is not UTF-8: {error}"]) from error
    if "json" not in content_type and not text.lstrip().startswith("{"):
        return parse_toml(text, what)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadJob([f"the body is not JSON: {error}"]) from error
    if not isinstance(document, dict):
        raise BadJob([f"the body is {type(document).__name__} in JSON; expected an object"])
    return document


def refuse_any_file(host: str, roots: Roots) -> None:
    """Raises BadJob where others can reach the API at `host` and a job could name any file of this account."""
    if not is_loopback(host) and roots == ANYWHERE:
        raise BadJob(
            [
                f"the API is bound to {host}, which others can reach, and TRIUNE_DATA_ROOTS is not set; "
                "expected the folders and URIs that jobs may read there"
            ]
        )


def read_submission(body: bytes, content_type: str, roots: Roots, plugin_roots: Sequence[Path] = ()) -> Draft:
    """The job in a request's body with every mistake: of its keys, between them, and of the files that it names.

    Raises BadJob when the body is no document at all.
    """
    draft = draft_job(parse_document(body, content_type))
    spec, mistakes = draft.spec, list(draft.mistakes)
    if draft.has("model"):
        mistakes += _model_mistakes(spec.model, roots)
    mistakes += _data_mistakes(draft, roots)
    if draft.has("reward.plugins"):
        mistakes += _plugin_mistakes(spec, plugin_roots)
    if draft.has("monitor.sinks"):
        mistakes += missing_sinks(spec.monitor.sinks)
    if not mistakes:
        mistakes += _memory_mistakes(spec)
    return replace(draft, mistakes=mistakes)


def _model_mistakes(model: str, roots: Roots) -> Iterator[str]:
    path = Path(model).expanduser()
    if not (model.startswith(("/", ".", "~")) or path.exists()):
        if not HUB_ID.fullmatch(model):
            yield f"model {model!r}: there is no folder of that name, and it is no hub id (owner/name)"
        elif (mistake := hub_mistake(model)) is not None:
            yield mistake
    elif not (path / "config.json").is_file():
        yield f"model {model!r}: there is no folder of that name with a config.json"
    elif not roots.allow_path(path):
        yield f"model {model!r} does not lie under the data roots {roots}"
    else:
        yield from _family_mistakes(path)


def _memory_mistakes(spec: JobSpec) -> Iterator[str]:
    """A learner that cannot fit; over how many ranks DeepSpeed shares a model out is not known here."""
    folder, given = Path(spec.model).expanduser(), spec.learner.device_memory_gib
    if not given or spec.learner.engine == "deepspeed" or not folder.is_dir():
        return
    try:
        sentence = misfit(spec, read_architecture(folder), int(given * GIB), device="cuda")
    except BadJob as error:
        yield from error.mistakes
        return
    if sentence is not None:
        yield sentence


def learner_memory(spec: JobSpec) -> dict[str, dict[str, float]]:
    """GiB of each part of the learner's memory on one device at its peak, by kind of device.

    Empty when the model's size is not known here: a hub id, weights in another format.
    """
    folder = Path(spec.model).expanduser()
    if not folder.is_dir():
        return {}
    try:
        architecture = read_architecture(folder)
    except BadJob:
        return {}
    found: dict[str, dict[str, float]] = {}
    shape = largest_shape(spec, architecture)
    for device in DEVICES:
        memory = estimate(spec, architecture, shape, device=device)
        parts = {**memory.device, **{f"host: {part}": size for part, size in memory.host.items()}}
        found[device] = {part: round(size / GIB, 3) for part, size in parts.items()}
    return found


def _family_mistakes(folder: Path) -> Iterator[str]:
    try:
        family_in(folder)
    except BadJob as error:
        yield from error.mistakes


def _data_mistakes(draft: Draft, roots: Roots) -> Iterator[str]:
    data, sources = draft.spec.data, draft.spec.sources
    for key, patterns in (("data.train", data.train), ("data.held_out", data.held_out)):
        if not draft.has(key):
            continue
        files, problems = inspect_files(patterns, roots=roots)
        yield from (f"{key}: {problem}" for problem in problems)
        if key == "data.train" and not problems and sources and draft.has("sources"):
            yield from _source_mistakes(draft.spec, files)


def _plugin_mistakes(spec: JobSpec, roots: Sequence[Path]) -> Iterator[str]:
    for path in spec.reward.plugins:
        try:
            verifiers_in(find_plugin(path, roots))
        except BadData as error:
            yield f"reward.plugins: {error}"


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
    yield from weight_mistakes(planned_weights(spec, known))


def training_sources(spec: JobSpec, roots: Roots) -> list[str]:
    """The sources in the training files; raises BadJob when they can no longer be read."""
    files, problems = inspect_files(spec.data.train, roots=roots)
    if problems:
        raise BadJob([f"data.train: {problem}" for problem in problems])
    try:
        return list(count_rows(files))
    except BadData as error:
        raise BadJob([f"data.train: {error}"]) from error


async def create_job(spec: JobSpec, jobs: JobStore, runs: Path) -> JobRecord:
    """A new queued job, its resolved file in its run folder; raises OSError when that cannot be written."""
    record = JobRecord(id=f"{spec.name}-{secrets.token_hex(4)}", spec=spec, state="queued", created_at=time.time())
    folder = runs / record.id
    try:
        write_whole(folder / JOB_NAME, write_toml(spec))
        await jobs.create(record)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # a job that does not exist has no folder
        raise
    return record
