"""Writes what follows from the declared metrics: docs/metrics.md, the Grafana dashboard and the Prometheus alerts.

Run `python -m tools.metric_pages` after a change of a declaration; a test compares. Prometheus's names of the metrics
are read back from a real export, so they are the ones that `/metrics` shows.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from services.data.metrics import METRICS as DATA
from services.learner.metrics import METRICS as LEARNER
from services.monitor.metrics import GAUGES
from services.monitor.metrics import METRICS as MONITOR
from services.monitor.values.catalog import CATALOG
from services.reward.metrics import METRICS as REWARD
from services.rollout.metrics import METRICS as ROLLOUT
from shared.runtime.metrics import Instruments, Metric

ROOT = Path(__file__).parents[1]
SERVICES: Final[Mapping[str, Sequence[Metric]]] = {
    "monitor": MONITOR,
    "learner": LEARNER,
    "rollout": ROLLOUT,
    "reward": REWARD,
    "data": DATA,
}


class Alert(NamedTuple):
    """A rule; `{name}` in `expression` stands for the Prometheus name of the metric `name`."""

    name: str
    expression: str
    wait: str
    severity: str
    summary: str


ALERTS: Final = (
    Alert(
        "TriuneRewardCollapsed",
        "{reward} < 0.5 * max_over_time({reward}[2h]) and max_over_time({reward}[2h]) > 0.1",
        "10m",
        "warning",
        "the reward of source {{ $labels.source }} has fallen to less than half of its best of two hours",
    ),
    Alert(
        "TriuneQueueStuck",
        "{queue.stuck} > 120",
        "1m",
        "critical",
        "there is work in the queues, and their depths have not changed for two minutes",
    ),
    Alert(
        "TriuneReplicaStale",
        "{replicas.version_lag} > 3",
        "5m",
        "warning",
        "a rollout replica is {{ $value }} versions behind the newest weights",
    ),
    Alert(
        "TriuneServiceDown",
        "{replicas.alive} == 0",
        "1m",
        "critical",
        "no replica of {{ $labels.service }} has been heard of for a minute",
    ),
    Alert(
        "TriuneVerifierErrors",
        "{verifier.error_rate} > 0.01",
        "5m",
        "warning",
        "verifier {{ $labels.verifier }} fails on over 1 % of completions",
    ),
    Alert(
        "TriuneSourceErrors",
        "{error_rate} > 0.01",
        "5m",
        "warning",
        "over 1 % of the completions of source {{ $labels.source }} have no verdict",
    ),
    Alert(
        "TriuneVarianceCollapsed",
        "{zero_variance} > 0.9",
        "30m",
        "info",
        "over 90 % of the groups of source {{ $labels.source }} carry no gradient",
    ),
)


@functools.cache
def prometheus_names() -> Mapping[str, str]:
    """By metric: the name in `/metrics`, without a histogram's or a counter's suffix of samples."""
    registry = CollectorRegistry()
    meters = MeterProvider(
        [PrometheusMetricReader(registry=registry, disable_target_info=True)], shutdown_on_exit=False
    )
    names: dict[str, str] = {}
    seen: set[str] = set()
    for metric in _all():
        instruments = Instruments(meters.get_meter("triune"), [metric])
        labels = dict.fromkeys(metric.labels, "x")
        if metric.kind == "counter":
            instruments.add(metric.name, 1.0, **labels)
        elif metric.kind == "gauge":
            instruments.set(metric.name, 1.0, **labels)
        else:
            instruments.record(metric.name, 1.0, **labels)
        found = {family.name for family in registry.collect()} - seen
        names[metric.name] = found.pop()
        seen.add(names[metric.name])
    meters.shutdown()
    return names


def _all() -> Iterator[Metric]:
    for metrics in SERVICES.values():
        yield from metrics


# ---------------------------------------------------------------- dashboard


def dashboard() -> str:
    """A Grafana dashboard: a row a service or section, a panel a metric."""
    names = prometheus_names()
    panels: list[dict[str, Any]] = []
    y = 0
    for title, metrics in _rows():
        panels.append({"type": "row", "title": title, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "collapsed": False})
        for index, metric in enumerate(metrics):
            place = {"h": 7, "w": 6, "x": index % 4 * 6, "y": y + 1 + index // 4 * 7}
            panels.append(_panel(metric, names[metric.name], place))
        y += 1 + -(-len(metrics) // 4) * 7
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    document = {
        "title": "Triune",
        "uid": "triune",
        "schemaVersion": 39,
        "tags": ["triune"],
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_data_source()]},
        "panels": panels,
    }
    return json.dumps(document, indent=1) + "\n"


def _data_source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _rows() -> Iterator[tuple[str, list[Metric]]]:
    sections: dict[str, list[Metric]] = {}
    for series, metric in GAUGES.items():
        section = next(i.section for i in CATALOG if i.name == series or series.startswith(i.name.removesuffix("*")))
        sections.setdefault(section, []).append(metric)
    yield from sections.items()
    shown = set(GAUGES.values())
    for service, metrics in SERVICES.items():
        rest = [metric for metric in metrics if metric not in shown]
        if rest:
            yield service, rest


def _panel(metric: Metric, name: str, place: dict[str, int]) -> dict[str, Any]:
    labels = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    by = f" by ({', '.join(metric.labels)})" if metric.labels else ""
    expression = {
        "gauge": name,
        "counter": f"sum{by} (rate({name}_total[5m]))",
        "histogram": f"histogram_quantile(0.95, sum by (le) (rate({name}_bucket[5m])))",
    }[metric.kind]
    return {
        "type": "timeseries",
        "title": metric.name,
        "description": metric.description,
        "gridPos": place,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "fieldConfig": {"defaults": {"unit": _grafana_unit(metric)}, "overrides": []},
        "targets": [{"refId": "A", "expr": expression, "legendFormat": labels or metric.name}],
    }


def _grafana_unit(metric: Metric) -> str:
    if metric.kind == "counter":
        return "ops"
    return {"s": "s", "By": "bytes"}.get(metric.unit, "short")


# ---------------------------------------------------------------- alerts


def alerts() -> str:
    """Prometheus's rule file."""
    names = prometheus_names()
    lines = ["# Written by `python -m tools.metric_pages`.", "groups:", "  - name: triune", "    rules:"]
    for alert in ALERTS:
        expression = alert.expression
        for metric, name in names.items():
            expression = expression.replace(f"{{{metric}}}", name)
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(expression)}",
            f"        for: {alert.wait}",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
        ]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- documentation

_INTRODUCTION = """# Metrics

Written by `python -m tools.metric_pages`.

## Series of a run

The monitor makes them from the journal and the learner's steps, for each source, each task and all together, keeps
every point in the run folder (`metrics.parquet`) and serves them under `GET /v1/jobs/{id}/metrics`. A name with `*` is
a family. A mean over nothing has no point.

**Correct** is defined by verifier: `detection`: every true box has a match of its label at the fixed IoU 0.5 and no box
is left over; `iou`: an IoU of at least 0.5; every other one: accuracy 1. V-Triune takes accuracy exactly 1 for all,
which hardly any detection answer reaches.

Differences from V-Triune's values, where both have the series: over an empty selection V-Triune writes NaN (lengths) or
0 (ratios), here there is no point; a completion whose verifier failed counts in `error_rate` alone, there it is a 0;
"cut at the limit" means that the engine stopped at `max_new_tokens`, there that the response is as long as the batch is
wide. Its tables of example answers are the sample browser of the page.
"""


def documentation() -> str:
    """docs/metrics.md."""
    lines = [_INTRODUCTION, "| series | unit | meaning | V-Triune |", "|---|---|---|---|"]
    for info in CATALOG:
        theirs = info.v_triune.replace("{of}", "[_source]").replace("{rest}", "*")
        lines.append(f"| `{info.name}` | {info.unit} | {_cell(info.description)} | {f'`{theirs}`' if theirs else ''} |")
    lines += [
        "",
        "`[_source]` is the source; of `rews` and `test` it stands behind a slash: `rews_final_reward/mm_math`.",
        "",
        "## Other places for a run's series",
        "",
        "`monitor.sinks` in a job file names them; each is an extra (`pip install .[NAME]`) and is fed step by step",
        "from the run's store, which remembers how far each got: a monitor that begins anew goes on there.",
        "Nothing waits for a sink that is away or fails: it is tried again each minute, the end of a job waits 30 s",
        "for it, and the log says of one that did not get all of the job which step was its last.",
        "",
        "| sink | writes to | tried with |",
        "|---|---|---|",
        "| `tensorboard` | `<run folder>/tensorboard` | its own event reader |",
        "| `wandb` | W&B, project `triune`, run = job id; `WANDB_MODE=offline`: `<run folder>/wandb` | offline |",
        "| `mlflow` | `MLFLOW_TRACKING_URI`, else `<run folder>/mlflow.db`; experiment `triune` | SQLite, 3.17.2 |",
        "| `trackio` | `TRACKIO_DIR` or `TRACKIO_SPACE_ID`; project `triune`, run = job id | its local store, 0.43.0 |",
        "",
        "`make test-sinks` tries them all in an environment of their own; `make test` tries MLflow. Trackio wants a",
        "pillow older than the one in `constraints.txt`: install it without that file.",
        "",
        "## Metrics of the processes",
        "",
        "Through OpenTelemetry; Prometheus reads them at `/metrics` of each process, OTLP goes to",
        "`OTEL_EXPORTER_OTLP_ENDPOINT` when it is set. Labels are source, task, verifier and service alone.",
        "",
        "OTLP over HTTP was tried with Rotel (the collector of PyPI's package `rotel`, 0.0.1-alpha10): ten spans came",
        "out with service, job, ordinal and source, and gauges with their values. `deploy/compose/otel.yaml` was not",
        "tried with the collector that it is for: no package has one that knows the receiver `otlp`.",
        "",
        "| metric | in Prometheus | kind | unit | labels | meaning |",
        "|---|---|---|---|---|---|",
    ]
    names = prometheus_names()
    for metric in _all():
        labels = ", ".join(metric.labels)
        shown = names[metric.name] + ("_total" if metric.kind == "counter" else "")
        cells = [f"`{metric.name}`", f"`{shown}`", metric.kind, metric.unit, labels, metric.description]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES: Final = {
    ROOT / "docs" / "metrics.md": documentation,
    ROOT / "deploy" / "grafana" / "triune.json": dashboard,
    ROOT / "deploy" / "prometheus" / "alerts.yaml": alerts,
}


def main() -> None:
    for path, page in PAGES.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page())


if __name__ == "__main__":
    main()
