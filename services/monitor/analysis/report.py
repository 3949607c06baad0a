"""What a run has come to: the document of `report.json`."""

import time
from typing import Any

import msgspec

from services.monitor.analysis.timing import PACE_STEPS, pace_s, time_shares, time_sums
from services.monitor.history.queries import Reader
from services.monitor.history.schema import incarnation_key
from services.monitor.history.totals import Total
from shared.jobs.record import JobRecord

WEIGHT_SUMS = {
    "sent_bytes": "weights/bytes",
    "full_bytes": "weights/full_bytes",
    "stall_s": "weights/stall",
    "publish_s": "weights/publish",
    "fetched_bytes": "weights/fetched",
    "load_s": "weights/load",
    "load_stall_s": "weights/load_stall",
}
"""Sums over all versions (and replicas that loaded them), and the series that they add up."""
FEW_GROUPS = 10_000
"""So many groups' time stamps are added up for every report that is written; more of them, only now and then."""


def build_report(
    record: JobRecord, reader: Reader | None, ordinal: int, earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The report of a job; `ordinal` is the first one that data has not published.

    With `earlier`, a report of the same job, the sums over all time stamps are taken from there: they are the only part
    that grows dear with the number of groups.
    """
    report: dict[str, Any] = {
        "job_id": record.id,
        "state": record.state,
        "error": record.error,
        "steps": reader.last_step() if reader else 0,
        "wall_s": _wall_s(record),
        "pace_s": None,
        "sources": {},
        "groups": {"published": ordinal, "trained": 0, "void": 0, "duplicates": 0},
        "staleness": {"max": 0, "mean": 0.0, "bound": record.spec.algorithm.max_staleness},
        "timing": {"learner_wait_s": 0.0, "learner_step_s": 0.0, "rollout_wait_s": 0.0, "weight_sync_s": 0.0},
        "shares": {},
        "weights": dict.fromkeys(WEIGHT_SUMS, 0.0),
        "engines": [],
        "latest": {},
        "evaluations": [],
        "changes": msgspec.to_builtins(record.changes),
    }
    if reader is not None:
        _fill(report, record, reader, ordinal)
        times = earlier or {"timing": time_sums(reader), "shares": time_shares(reader)}
        report |= {"timing": times["timing"], "shares": times["shares"]}
    return report


def _fill(report: dict[str, Any], record: JobRecord, reader: Reader, ordinal: int) -> None:
    counts = reader.train_counts()
    report["sources"] = _sources(reader, counts)
    totals = {name: sum(of[name] for of in counts.values()) for name in ("published", "trained", "void", "duplicates")}
    # Data's ordinal counts every prompt; what the journal shows of them can be less while groups are on their way.
    report["groups"] = totals | {"published": max(ordinal, totals["published"])}
    report["staleness"] = reader.staleness() | {
        "bound": max(record.spec.algorithm.max_staleness, int(reader.meta("bound") or 0))
    }
    sums = reader.totals()
    report["weights"] = {key: sums.get(name, Total()).total for key, name in WEIGHT_SUMS.items()}
    report["engines"] = reader.engines()
    report["pace_s"] = pace_s(reader.step_ends(PACE_STEPS))
    report["latest"] = reader.newest_values("reward")
    report["evaluations"] = [
        {"version": done["version"], "total": done["total"], "void": done["void"]}
        | {"incarnation": int(reader.meta(incarnation_key(done["version"])) or 0)}
        | {"sources": reader.values_at("eval/reward", done["version"])}
        for done in reader.evaluations()
    ]


def _sources(reader: Reader, counts: dict[str, dict[str, int]]) -> dict[str, dict[str, Any]]:
    versions = [done["version"] for done in reader.evaluations()]
    before = reader.values_at("eval/reward", versions[0]) if versions else {}
    after = reader.values_at("eval/reward", versions[-1]) if len(versions) > 1 else {}  # not the same one again
    held_out = reader.values_at("eval/groups", versions[-1]) if versions else {}
    held_out_voids = reader.void_reasons("eval", versions[-1]) if versions else {}
    reasons, tasks = reader.void_reasons(), reader.tasks()
    none = {"published": 0, "trained": 0, "void": 0, "duplicates": 0}
    return {
        name: {
            "task": tasks.get(name, ""),
            "before": before.get(name),
            "after": after.get(name),
            "n": int(held_out.get(name, 0)),
            "held_out_void": sum(held_out_voids.get(name, {}).values()),  # of the last evaluation, beside its n
            "groups": counts.get(name, none),
            "void_reasons": reasons.get(name, {}),
        }
        for name in sorted((counts.keys() | tasks.keys()) - {""})
    }


def _wall_s(record: JobRecord) -> float:
    if record.started_at is None:
        return 0.0
    return (record.ended_at or time.time()) - record.started_at
