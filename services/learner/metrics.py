"""What the learner measures of itself, through OpenTelemetry."""

from collections.abc import Mapping

from opentelemetry import metrics

from shared.runtime.metrics import Instruments, Metric

METRICS = (
    Metric("learner.steps", "{step}", "training steps made by this process", "counter"),
    Metric("learner.wait", "s", "time that the last step waited for its groups"),
    Metric("learner.step", "s", "time that the last step computed"),
    Metric("learner.grad_norm", "1", "global gradient norm of the last update, before clipping"),
    Metric("learner.entropy", "1", "mean entropy of the policy over the last step's tokens, in nats"),
)


class LearnerMetrics:
    """The instruments of `METRICS`."""

    def __init__(self) -> None:
        self._instruments = Instruments(metrics.get_meter("triune.learner"), METRICS)

    def count_step(self, timing: Mapping[str, float], measured: Mapping[str, float]) -> None:
        """One training step; `timing` in seconds."""
        self._instruments.add("learner.steps")
        self._instruments.set("learner.wait", timing["wait_s"])
        self._instruments.set("learner.step", timing["step_s"] + timing.get("overlap_s", 0.0))
        for name in ("grad_norm", "entropy"):
            if name in measured:
                self._instruments.set(f"learner.{name}", measured[name])
