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
    Metric("reward.judge_calls", "{call}", "questions put to the judge that it answered", "counter"),
    Metric("reward.judge_failures", "{call}", "questions put to the judge whose call failed", "counter"),
    Metric("reward.judge_tokens_in", "{token}", "tokens of questions to the judge, as it counts them", "counter"),
    Metric("reward.judge_tokens_out", "{token}", "tokens of its replies", "counter"),
    Metric("reward.judge_cost", "1", "what it cost, by reward.judge_prices or the endpoint's own word", "counter"),
    Metric("reward.audit_failures", "{group}", "groups that were to be audited, and whose audit failed", "counter"),
    Metric("reward.replaced", "{process}", "worker processes replaced since the start"),
)


def instruments() -> Instruments:
    """The instruments on this process's meter."""
    return Instruments(metrics.get_meter("triune.reward"), METRICS)
