"""The metrics that the monitor emits through OpenTelemetry, made from the catalogue of series.

Gauges by source and task hold the last step's value; gauges without labels are of all sources. The reasons of voids and
the components of the model are parts of a name, since labels are source, task, verifier and service alone; single
layers are in the store, not here.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from opentelemetry.metrics import Meter

from services.monitor.values.catalog import CATALOG, SeriesInfo
from services.monitor.values.where import ALL, Where
from shared.messages import Voided
from shared.runtime.metrics import VOID_REASONS, Instruments, Metric

BY_SOURCE: Final = ("source", "task")
_OVERALL: Final = ("learner", "gradients", "throughput", "weights", "queues")
"""Sections whose series are of all sources together."""
_MEMBERS: Final = {
    "part/*": (
        *(f"report_iou_{at}_label_match_{kind}" for at in (50, 75, 95, 99) for kind in ("pure", "precision", "recall")),
        *(f"pure_map{at}_score" for at in ("", "50", "75")),
    ),
    "void/*": (*VOID_REASONS, "other"),
    "learner/grad_norm/*": ("vit", "connector", "llm"),
    "learner/lr/*": ("vit", "connector", "llm"),
    "timing/*": ("wait_s", "overlap_s", "step_s", "store_s"),
    "queue/*": ("prompts", "completions"),
}
"""Members of a family that are emitted; of a family that is not named here, none are."""


def _expand(infos: Iterable[SeriesInfo]) -> Iterator[tuple[str, SeriesInfo]]:
    for info in infos:
        if not info.name.endswith("/*"):
            yield info.name, info
        for member in _MEMBERS.get(info.name, ()):
            yield info.name[:-1] + member, info


def metric_name(series: str) -> str:
    """The metric of a series: `eval/reward` → `eval.reward`, `timing/wait_s` → `timing.wait`.

    What the learner measured in a step is `step.…`: `learner.…` are the metrics of the learner's own process.
    """
    plain = series.removesuffix("_s").replace("/", ".").replace("-", "_")
    return f"step.{plain.removeprefix('learner.')}" if plain.startswith("learner.") else plain


def _labels(info: SeriesInfo) -> tuple[str, ...]:
    return () if info.section in _OVERALL or info.name == "timing/*" else BY_SOURCE


GAUGES: Final = {
    name: Metric(metric_name(name), info.unit, info.description, labels=_labels(info))
    for name, info in _expand(CATALOG)
}
"""By series."""
COUNTERS: Final = (
    Metric("groups.read", "{group}", "groups that the monitor has read of the journal", "counter"),
    Metric("groups.void", "{group}", "void groups, whatever the reason", "counter", BY_SOURCE),
    *(
        Metric(f"groups.void.{metric_name(reason)}", "{group}", f"void groups of reason {reason}", "counter", BY_SOURCE)
        for reason in (*VOID_REASONS, "other")
    ),
)
REPLICAS: Final = (
    Metric("replicas.alive", "{replica}", "replicas that were heard of in the last seconds", labels=("service",)),
    Metric("replicas.version_lag", "{version}", "newest version less the oldest that a replica has loaded"),
    Metric("queue.stuck", "s", "how long there has been work in the queues without a change of their depths"),
    Metric("verifier.error_rate", "1", "share of completions whose verifier failed", labels=("verifier",)),
)
METRICS: Final = (*GAUGES.values(), *COUNTERS, *REPLICAS)


class MonitorMetrics:
    """The monitor's instruments."""

    def __init__(self, meter: Meter) -> None:
        self._instruments = Instruments(meter, METRICS)

    def show(self, values: Mapping[Where, Mapping[str, float]], tasks: Mapping[str, str]) -> None:
        """The newest values of every set; `tasks` by source."""
        for where, named in values.items():
            for name in named.keys() & GAUGES.keys():
                metric = GAUGES[name]
                if not metric.labels and where == ALL:
                    self._instruments.set(metric.name, named[name])
                elif metric.labels and where.source:
                    labels = {"source": where.source, "task": tasks.get(where.source, "")}
                    self._instruments.set(metric.name, named[name], **labels)

    def show_replicas(self, alive: Mapping[str, int], version_lag: int) -> None:
        """Replicas alive by service, and how many versions the slowest rollout replica is behind."""
        for service, number in alive.items():
            self._instruments.set("replicas.alive", number, service=service)
        self._instruments.set("replicas.version_lag", version_lag)

    def show_queues(self, depths: Mapping[str, int], in_flight: int, stuck_s: float) -> None:
        """Depths by stream, groups being generated, and how long the queues have not moved."""
        for stream, depth in depths.items():
            self._instruments.set(GAUGES[f"queue/{stream}"].name, depth)
        self._instruments.set("in_flight", in_flight)
        self._instruments.set("queue.stuck", stuck_s)

    def show_verifiers(self, error_rates: Mapping[str, float]) -> None:
        """Error rates of the last step, by verifier."""
        for verifier, rate in error_rates.items():
            self._instruments.set("verifier.error_rate", rate, verifier=verifier)

    def count_groups(self, number: int) -> None:
        self._instruments.add("groups.read", number)

    def count_void(self, void: Voided) -> None:
        reason = void.reason if void.reason in VOID_REASONS else "other"
        for name in ("groups.void", f"groups.void.{metric_name(reason)}"):
            self._instruments.add(name, source=void.source, task=void.task)
