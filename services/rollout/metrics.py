"""What the rollout service measures of itself, through OpenTelemetry."""

from opentelemetry import metrics

from services.rollout.engine import Loaded
from shared.messages import Completed
from shared.runtime.metrics import Instruments, Metric

METRICS = (
    Metric("rollout.groups", "{group}", "groups completed", "counter", ("source",)),
    Metric("rollout.void", "{group}", "groups given up as void", "counter", ("source",)),
    Metric("rollout.tokens", "{token}", "tokens generated", "counter", ("source",)),
    Metric("rollout.group_time", "s", "from the start of a group to its last token", "histogram"),
    Metric("rollout.load_time", "s", "time to fetch and load a version of the weights", "histogram"),
    Metric("rollout.load_stall", "s", "time of a load for which no token was sampled", "histogram"),
    Metric("rollout.load_size", "By", "bytes of weights fetched from the blob store", "counter"),
    Metric("rollout.wait", "s", "time without a prompt in hand", "counter"),
)


class RolloutMetrics:
    """The instruments of `METRICS`."""

    def __init__(self) -> None:
        self._instruments = Instruments(metrics.get_meter("triune.rollout"), METRICS)

    def completed(self, group: Completed) -> None:
        source = group.prompt.source
        self._instruments.add("rollout.groups", source=source)
        self._instruments.add("rollout.tokens", sum(one.num_tokens for one in group.completions), source=source)
        self._instruments.record("rollout.group_time", group.finished_at - group.started_at)

    def void(self, source: str) -> None:
        self._instruments.add("rollout.void", source=source)

    def loaded(self, loaded: Loaded, fetched: int, seconds: float) -> None:
        self._instruments.record("rollout.load_time", seconds)
        self._instruments.record("rollout.load_stall", loaded.stall_s)
        self._instruments.add("rollout.load_size", fetched)

    def waited(self, seconds: float) -> None:
        self._instruments.add("rollout.wait", seconds)
