"""The metrics that the monitor emits: a job's newest values by source and task, and what was counted."""

from collections.abc import Mapping
from typing import Final

from opentelemetry.metrics import Meter

from services.monitor.series import ALL, Where
from shared.messages import Voided
from shared.metrics import VOID_REASONS, Instruments, Metric

BY_SOURCE: Final = ("source",)

SOURCE_METRICS: Final = {
    "reward": Metric("reward", "1", "Mean final reward of the last step's judged completions", labels=BY_SOURCE),
    "accuracy": Metric("accuracy", "1", "Mean accuracy reward of the last step", labels=BY_SOURCE),
    "format": Metric("format", "1", "Mean format reward of the last step", labels=BY_SOURCE),
    "correct": Metric("correct", "1", "Share of correct completions in the last step", labels=BY_SOURCE),
    "response_length": Metric("response.length", "{token}", "Mean length of completions", labels=BY_SOURCE),
    "response_length_correct": Metric(
        "response.length.correct", "{token}", "Mean length of correct completions", labels=BY_SOURCE
    ),
    "response_length_wrong": Metric(
        "response.length.wrong", "{token}", "Mean length of wrong completions", labels=BY_SOURCE
    ),
    "truncation": Metric("truncation", "1", "Share of completions cut at the length limit", labels=BY_SOURCE),
    "reflection": Metric("reflection", "1", "Share of completions with a reflection word", labels=BY_SOURCE),
    "error_rate": Metric("verifier.errors", "1", "Share of completions whose verifier failed", labels=BY_SOURCE),
    "zero_variance": Metric("zero_variance", "1", "Share of groups whose rewards are all equal", labels=BY_SOURCE),
    "format_only": Metric("format_only", "1", "Share of groups whose rewards differ in format alone", labels=BY_SOURCE),
    "reward_std": Metric("reward.std", "1", "Mean deviation of rewards within a group", labels=BY_SOURCE),
    "staleness": Metric("staleness", "{version}", "Mean staleness of trained groups", labels=BY_SOURCE),
    "staleness_max": Metric("staleness.max", "{version}", "Largest staleness of the last step", labels=BY_SOURCE),
}
"""By series name; each is shown for every source."""

COUNTERS: Final = [
    Metric("groups.read", "{group}", "Groups that the monitor has read of the journal", "counter"),
    Metric("groups.void", "{group}", "Void groups, whatever the reason", "counter", BY_SOURCE),
    *(
        Metric(f"groups.void.{reason}", "{group}", f"Void groups of reason {reason}", "counter", BY_SOURCE)
        for reason in (*VOID_REASONS, "other")
    ),
]
DECLARED: Final = [*SOURCE_METRICS.values(), *COUNTERS]


class MonitorMetrics:
    """The monitor's instruments."""

    def __init__(self, meter: Meter) -> None:
        self._instruments = Instruments(meter, DECLARED)

    def show(self, values: Mapping[Where, Mapping[str, float]]) -> None:
        """The newest values of every source."""
        for where, named in values.items():
            if where == ALL or not where.source:
                continue
            for name, metric in SOURCE_METRICS.items():
                if name in named:
                    self._instruments.set(metric.name, named[name], source=where.source)

    def count_groups(self, number: int) -> None:
        self._instruments.add("groups.read", number)

    def count_void(self, void: Voided) -> None:
        reason = void.reason if void.reason in VOID_REASONS else "other"
        self._instruments.add("groups.void", source=void.source)
        self._instruments.add(f"groups.void.{reason}", source=void.source)
