"""What the reward service measures."""

from opentelemetry import metrics

from shared.runtime.metrics import Instruments, Metric

METRICS = (
    Metric("reward.scored", "{sample}", "samples with a reward", "counter", ("verifier",)),
    Metric("reward.errors", "{sample}", "samples that could not be scored", "counter", ("verifier",)),
    Metric("reward.groups", "{group}", "groups scored for a job", "counter", ("source",)),
    Metric(
        "reward.voided", "{group}", "groups given up: unverifiable or redelivered too often", "counter", ("source",)
    ),
    Metric("reward.handed_back", "{group}", "groups handed back after an infra-error", "counter"),
    Metric("reward.requests", "{request}", "batches scored, from the bus and over HTTP", "counter"),
    Metric("reward.request_seconds", "s", "time from their arrival to their last reward, all together", "counter"),
    Metric("reward.waiting", "{sample}", "samples that wait for a worker"),
    Metric("reward.cached", "{sample}", "samples whose reward was known by their content", "counter"),
    Metric("reward.replaced", "{process}", "worker processes replaced since the start"),
)


def instruments() -> Instruments:
    """The instruments on this process's meter."""
    return Instruments(metrics.get_meter("triune.reward"), METRICS)
