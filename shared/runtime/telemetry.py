"""OpenTelemetry of a process: a meter that Prometheus can read, traces and metrics to OTLP when an endpoint is set."""

import contextlib
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opentelemetry import metrics, propagate, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from shared.messages import Prompt
from shared.runtime.settings import Settings


class OwnIds(IdGenerator):
    """Ids of a generator of our own: the SDK's default draws from `random`, which repeats under a fixed seed.

    The kernel seeds it once: asked for each id, it would have the event loop wait for Python's lock each time.
    """

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(32))

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1


@dataclass(frozen=True)
class Telemetry:
    """The providers of this process; `close` flushes them."""

    meters: MeterProvider
    tracers: TracerProvider

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()


def set_up_telemetry(service: str, settings: Settings) -> Telemetry:
    """Install the process's meter and tracer providers; call once. Without an endpoint no trace is sampled."""
    resource = Resource.create({"service.name": f"triune-{service}", "service.instance.id": settings.replica})
    readers: list[MetricReader] = [PrometheusMetricReader()]
    tracers = TracerProvider(
        resource=resource,
        id_generator=OwnIds(),
        sampler=ParentBasedTraceIdRatio(settings.trace_rate if settings.otlp_endpoint else 0.0),
        shutdown_on_exit=False,
    )
    if settings.otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    meters = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    trace.set_tracer_provider(tracers)
    return Telemetry(meters, tracers)


@contextlib.contextmanager
def group_span(
    name: str, prompt: Prompt, came_with: Mapping[str, str], started_at: float | None = None
) -> Iterator[trace.Span]:
    """A span of one group's life, the current one inside the block, so that what is published there continues it.

    `came_with` are the headers of the message before (none: a new trace). `started_at` in seconds since the epoch.
    """
    attributes: dict[str, str | int] = {
        "triune.job": prompt.job,
        "triune.ordinal": prompt.ordinal,
        "triune.source": prompt.source,
    }
    with trace.get_tracer("triune").start_as_current_span(
        name,
        context=propagate.extract(came_with),
        start_time=int(started_at * 1e9) if started_at else None,
        attributes=attributes,
    ) as span:
        yield span
