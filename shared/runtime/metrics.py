"""Metrics declared before they are emitted: name, unit, description and labels, each once.

A service's `metrics.py` lists its metrics; `Instruments` makes the OpenTelemetry instruments of such a list. Labels are
few and bounded (`LABELS`); what has an id of its own belongs to traces.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from opentelemetry.metrics import Counter, Histogram, Meter
from opentelemetry.metrics import _Gauge as Gauge

LABELS = ("source", "task", "verifier", "service")
"""The only labels; each has as many values as the job or the deployment names, never one a sample."""

VOID_REASONS = ("bad-sample", "unverifiable", "redelivered", "too-large", "filtered", "stopped")
"""Why a group is void; any other reason is counted as `other`."""


@dataclass(frozen=True)
class Metric:
    """One metric. `unit` is a UCUM code: `s`, `By`, `1` for a ratio, `{group}` for a count of groups."""

    name: str
    unit: str
    description: str
    kind: Literal["counter", "gauge", "histogram"] = "gauge"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = set(self.labels) - set(LABELS)
        if unknown:
            raise ValueError(f"metric {self.name} has labels {sorted(unknown)}; only {', '.join(LABELS)} are allowed")


class Instruments:
    """The instruments of declared metrics; an undeclared name (KeyError) or label (ValueError) is an error."""

    def __init__(self, meter: Meter, declared: Iterable[Metric]) -> None:
        self._metrics: dict[str, Metric] = {}
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in declared:
            if metric.name in self._metrics:
                raise ValueError(f"metric {metric.name} is declared twice")
            self._metrics[metric.name] = metric
            self._create(meter, metric)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count `amount` (at least 0) on a counter."""
        self._counters[name].add(amount, self._checked(name, labels))

    def set(self, name: str, value: float, **labels: str) -> None:
        """The newest value of a gauge."""
        self._gauges[name].set(value, self._checked(name, labels))

    def record(self, name: str, value: float, **labels: str) -> None:
        """One observation of a histogram."""
        self._histograms[name].record(value, self._checked(name, labels))

    def _checked(self, name: str, labels: Mapping[str, str]) -> Mapping[str, str]:
        if set(labels) != set(self._metrics[name].labels):
            raise ValueError(f"metric {name} has labels {self._metrics[name].labels}; got {tuple(labels)}")
        return labels

    def _create(self, meter: Meter, metric: Metric) -> None:
        name, unit, description = f"triune.{metric.name}", metric.unit, metric.description
        if metric.kind == "counter":
            self._counters[metric.name] = meter.create_counter(name, unit, description)
        elif metric.kind == "gauge":
            self._gauges[metric.name] = meter.create_gauge(name, unit, description)
        else:
            self._histograms[metric.name] = meter.create_histogram(name, unit, description)
