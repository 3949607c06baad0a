"""What must hold of a job after all that was done to it; each broken rule is a sentence."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import blake3
import pyarrow.parquet as pq

from shared.messages import StepDone
from tests.chaos.schedule import MOMENTS, Fault, Schedule
from tests.chaos.system import PROMPTS_PER_STEP, Seen, System

_TWICE = {"rollout", "reward", "nats"}
"""Whose deaths and outages may have work done twice; of the others', none."""


async def broken_rules(
    system: System, schedule: Schedule, job: str, reference: str | None, done: Sequence[Fault] = ()
) -> list[str]:
    """The rules that `job` breaks; `reference` is the digest of the weights that an undisturbed run ends with."""
    details = await system.show(job) or {}
    if details.get("state") != "done":
        return [f"the job is {details.get('state')}, expected done: {details.get('error')}"]
    report, seen = system.report(job), system.seen[job]
    broken = [
        *_sums(report, schedule),
        *_sequence(seen, system.deployment.runs / job, report, schedule),
        *_versions(seen, system.deployment.runs / job, schedule),
        *_voids(report, schedule),
        *_repeated(report, done),
        *[sentence async for sentence in _left(system, job)],
        *await _dead_letters(system, job),
    ]
    if reference is not None and schedule.is_comparable and not report["groups"]["void"]:
        found = weights_digest(system.deployment.runs / job)
        if found != reference:
            broken.append(f"the final weights are {found[:12]}, expected {reference[:12]} as without a fault")
    return broken


def _sums(report: dict[str, Any], schedule: Schedule) -> Iterator[str]:
    """Published = trained + void, in total and by source; staleness within the bound."""
    groups = {"all": report["groups"], **{name: one["groups"] for name, one in report["sources"].items()}}
    for name, of in groups.items():
        if of["published"] != of["trained"] + of["void"]:
            yield f"source {name}: {of['published']} published, {of['trained']} trained and {of['void']} void"
    trained = schedule.steps * PROMPTS_PER_STEP
    if report["groups"]["trained"] != trained:
        yield f"{report['groups']['trained']} groups were trained, expected {trained}"
    if report["staleness"]["max"] > schedule.max_staleness:
        yield f"staleness {report['staleness']['max']}, expected at most {schedule.max_staleness}"


def _sequence(seen: Seen, folder: Path, report: dict[str, Any], schedule: Schedule) -> Iterator[str]:
    """Each ordinal once: in the steps that the learner told, and in the samples on file.

    A step that was purged before we could hear it is known from the file alone.
    """
    told: dict[int, StepDone] = {}
    for _, done in seen.steps:
        if told.setdefault(done.step, done).trained != done.trained:
            yield f"step {done.step} was told twice, with other groups"
    filed: dict[int, list[int]] = {}
    for row in _rows(folder, "trained"):
        filed.setdefault(row["step"], []).append(row["ordinal"])
    if sorted({*told, *filed}) != list(range(1, schedule.steps + 1)):
        yield f"steps {sorted(told)} were told and {sorted(filed)} are on file, expected 1 to {schedule.steps}"
    for step, done in told.items():
        if sorted(done.trained) != sorted(filed.get(step, [])):
            yield f"step {step} was told to be of {done.trained}; on file it is of {filed.get(step)}"
    trained = [ordinal for ordinals in filed.values() for ordinal in ordinals]
    every = Counter([*trained, *_ordinals(folder, "void")])
    if doubled := sorted(ordinal for ordinal, times in every.items() if times > 1):
        yield f"ordinals {doubled} are on file more than once"
    if sorted(every) != list(range(report["groups"]["published"])):
        yield f"{len(every)} ordinals are on file, expected 0 to {report['groups']['published'] - 1}"


def _ordinals(folder: Path, state: str) -> list[int]:
    return [row["ordinal"] for row in _rows(folder, state)]


def _rows(folder: Path, state: str) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "samples").glob("*.parquet")):
        rows = pq.read_table(path, columns=["kind", "state", "ordinal", "step"]).to_pylist()
        yield from (row for row in rows if row["kind"] == "train" and row["state"] == state)


def _versions(seen: Seen, folder: Path, schedule: Schedule) -> Iterator[str]:
    """Versions from 0 to the last without a gap; neither they nor the window ever go back.

    One that was purged before we could hear it is known from the file alone.
    """
    numbers = [message.version for _, message in seen.versions]
    known = sorted({*numbers, *_versions_on_file(folder)})
    if known != list(range(schedule.steps + 1)):
        yield f"versions {known} were heard or are on file, expected 0 to {schedule.steps}"
    if numbers != sorted(numbers):
        yield f"versions went back: {numbers}"
    ends = [message.window_end for _, message in seen.versions]
    if ends != sorted(ends):
        yield f"the window went back: {ends}"
    if any(message.incarnation for _, message in seen.versions):
        yield "a replay on the CPU gave other bits: there is a second incarnation"


def _versions_on_file(folder: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(folder / "monitor.sqlite")) as store:
        return [version for (version,) in store.execute("SELECT step FROM announced WHERE digest IS NOT NULL")]


def _voids(report: dict[str, Any], schedule: Schedule) -> Iterator[str]:
    """A poisoned sample is void, one whose image was destroyed may be; nothing else is."""
    has_spoiled = any(fault.kind == "blob" for fault in schedule.faults)
    for name, source in report["sources"].items():
        reasons = dict(source["void_reasons"])
        if name == "poisoned":
            if set(reasons) - {"unverifiable", "bad-sample"} or source["groups"]["trained"]:
                yield f"the poisoned sample was {source['groups']} for {reasons}, expected unverifiable"
        elif reasons and not has_spoiled:
            yield f"source {name} has voids {reasons}, expected none"


def _repeated(report: dict[str, Any], done: Sequence[Fault]) -> Iterator[str]:
    """No group is made twice because learner, data, monitor or Redis died."""
    guilty = {_of(fault) for fault in done} & _TWICE
    if report["groups"]["duplicates"] and not guilty:
        yield f"{report['groups']['duplicates']} groups were made twice, expected none after these faults"


def _of(fault: Fault) -> str:
    return MOMENTS.get(fault.target, fault.target)


async def _left(system: System, job: str) -> Any:
    """Nothing of the job is left in the queues."""
    for stream in ("prompts", "completions"):
        for kind in ("train", "eval"):
            waiting, held = await system.bus.waiting(stream, job, kind)  # type: ignore[arg-type]
            if waiting or held:
                yield f"{waiting} + {held} messages are left in {stream}.{job}.{kind}"


async def _dead_letters(system: System, job: str) -> list[str]:
    """Every letter is of a group that is void as `redelivered`, and the API shows them all."""
    letters = (await system.client.get(f"/v1/jobs/{job}/dead-letters", params={"limit": 10_000})).json()["letters"]
    voids = set(_ordinals(system.deployment.runs / job, "void"))
    return [
        f"ordinal {letter['ordinal']} is a dead letter ({letter['reason']}) and not void"
        for letter in letters
        if ".train" in letter["subject"] and letter["ordinal"] not in voids
    ]


def left_blobs(system: System) -> list[str]:
    """Blobs that nobody refers to: after the last job, all that are there."""
    return sorted(path.name for path in system.blobs.glob("??/*"))


def steps_of(run: Path) -> int:
    """Training steps of the run folder's last checkpoint."""
    return int(max((run / "checkpoints").glob("step-*")).name.removeprefix("step-"))


def weights_digest(run: Path) -> str:
    """Of the model in the run folder's last checkpoint."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    digest = blake3.blake3()
    for path in sorted((folders[-1] / "model").glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
