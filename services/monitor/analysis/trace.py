"""One group's life, from its prompt to the gradient it fed, told from the run folder alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from services.monitor.analysis.browse import Wanted, find_samples
from services.monitor.history.queries import reading
from shared.errors import UserError


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One span of the life. Times are seconds since the epoch; `by` is the replica, empty where it is not known."""

    name: Literal["published", "generated", "scored", "trained"]
    start: float
    end: float
    by: str
    facts: dict[str, Any]


class GroupTrace(msgspec.Struct, frozen=True, kw_only=True):
    """The life of one group; a group that was given up has a reason and, it may be, fewer stages."""

    job: str
    kind: str
    ordinal: int
    source: str
    task: str
    sample_id: str
    state: str
    reason: str
    detail: str
    stages: list[Stage]


def trace_group(
    folder: Path, ordinal: int, *, kind: Literal["train", "eval"] = "train", version: int | None = None
) -> GroupTrace:
    """The life of group `ordinal` in the run folder `folder`; raises UserError when it is not there."""
    found = find_samples(folder, Wanted(kind=kind, ordinal=ordinal, version=version), 1).samples
    if not found:
        at = f" at version {version}" if version is not None else ""
        raise UserError(f"run {folder.name} has no {kind} group {ordinal}{at}; nothing of it has been read")
    row = found[0]
    names = ("source", "task", "sample_id", "state", "reason", "detail")
    stages = sorted(_stages(folder, row), key=lambda stage: stage.start)
    return GroupTrace(job=folder.name, kind=kind, ordinal=ordinal, stages=stages, **{n: row[n] or "" for n in names})


def _stages(folder: Path, row: dict[str, Any]) -> Iterator[Stage]:
    if row.get("started_at") is None:
        return
    published = row["published_at"] or row["started_at"]
    yield Stage(name="published", start=published, end=row["started_at"], by="", facts={})
    completions = row["completions"]
    versions = sorted({run["version"] for completion in completions for run in completion["versions"]})
    tokens = [completion["tokens"] for completion in completions]
    yield Stage(
        name="generated",
        start=row["started_at"],
        end=row["finished_at"],
        by=row["replica"],
        facts={"versions": versions, "tokens": tokens, "prompt_tokens": row["prompt_tokens"]},
    )
    yield Stage(
        name="scored",
        start=row["score_started_at"],
        end=row["score_finished_at"],
        by=row["scorer"],
        facts={"verifier": row["verifier"], "rewards": [completion["reward"] for completion in completions]},
    )
    trained = _trained(folder, row) if row["state"] == "trained" else None
    if trained is not None:
        yield trained


def _trained(folder: Path, row: dict[str, Any]) -> Stage | None:
    with reading(folder) as reader:
        steps = reader.steps(after=row["step"] - 1, limit=1) if reader is not None else []
    if not steps:
        return None
    step = steps[0]
    advantages = [completion["advantage"] for completion in row["completions"]]
    facts = {"step": step["step"], "staleness": row["staleness"], "advantages": advantages}
    portions = [portion["started_at"] for portion in step["portions"] if row["ordinal"] in portion["ordinals"]]
    start = min(portions, default=step["finished_at"] - step["timing"].get("step_s", 0.0))
    return Stage(name="trained", start=start, end=step["finished_at"], by="", facts=facts)


def trace_lines(trace: GroupTrace) -> Iterator[str]:
    """The trace as lines of text, times in seconds from the first stage on."""
    yield f"{trace.job} {trace.kind} group {trace.ordinal}: {trace.source} ({trace.task}), sample {trace.sample_id}"
    begin = trace.stages[0].start if trace.stages else 0.0
    for stage in trace.stages:
        by = f" by {stage.by}" if stage.by else ""
        facts = ", ".join(f"{name} {_short(value)}" for name, value in stage.facts.items())
        times = f"{stage.start - begin:9.3f} s  +{stage.end - stage.start:8.3f} s"
        yield f"  {times}  {stage.name:<9}{by}  {facts}".rstrip()
    if trace.state == "void":
        yield f"  void: {trace.reason or 'no reason was given'}; {trace.detail or 'no detail'}"
    elif trace.kind == "train" and trace.state != "trained":
        yield f"  {trace.state}; no step has consumed it yet"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + " ".join(_short(item) for item in value) + "]"
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)
