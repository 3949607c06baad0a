"""What the data service measures."""

from opentelemetry import metrics

from shared.runtime.metrics import Instruments, Metric

METRICS = (
    Metric("data.published", "{group}", "prompts published for training", "counter", ("source",)),
    Metric("data.voided", "{group}", "rows that cannot be used, published as void", "counter", ("source",)),
    Metric("data.held_out", "{group}", "held-out prompts published for evaluations", "counter"),
    Metric("data.ordinal", "{group}", "the first ordinal not yet published"),
    Metric("data.ready", "{group}", "prompts made ahead of the window"),
    Metric("data.publish", "s", "time to publish one lot and store its ordinal", "histogram"),
)


def instruments() -> Instruments:
    """The instruments on this process's meter."""
    return Instruments(metrics.get_meter("triune.data"), METRICS)
