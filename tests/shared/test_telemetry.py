"""A group's trace goes on from service to service; ids do not repeat under a fixed seed."""

import random

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.bus.port import Bus
from shared.messages import message_id
from shared.runtime.telemetry import OwnIds, group_span
from tests.fakes import make_prompt, make_scored

EXPORTER = InMemorySpanExporter()


def provider() -> TracerProvider:
    made = TracerProvider(id_generator=OwnIds(), shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(EXPORTER))
    return made


trace.set_tracer_provider(provider())


async def test_a_trace_is_carried_by_work_and_by_the_journal(bus: Bus, job: str) -> None:
    EXPORTER.clear()
    prompt, scored = make_prompt(0, job=job), make_scored(0, job=job)
    with group_span("data.publish", prompt, {}):
        await bus.publish("prompts", job, "train", prompt, message_id(job, "train", None, 0))
    (delivery,) = await (await bus.work("prompts", job, "train")).fetch(1, 5.0)
    with group_span("rollout.generate", prompt, delivery.trace):
        await bus.publish("scored", job, "train", scored, message_id(job, "train", None, 0))
    await delivery.ack()
    reader = await bus.read_journal(job, "train")
    (entry,) = await reader.fetch(1, 5.0)
    await reader.close()
    with group_span("learner.ingest", prompt, entry.trace):
        pass
    spans = {span.name: span for span in EXPORTER.get_finished_spans()}
    assert len({span.context.trace_id for span in spans.values()}) == 1
    assert spans["rollout.generate"].parent is not None
    assert spans["rollout.generate"].parent.span_id == spans["data.publish"].context.span_id
    assert spans["learner.ingest"].parent is not None
    assert spans["learner.ingest"].parent.span_id == spans["rollout.generate"].context.span_id


def test_ids_do_not_repeat_under_a_fixed_seed() -> None:
    ids = OwnIds()
    random.seed(42)
    first = ids.generate_trace_id(), ids.generate_span_id()
    random.seed(42)
    assert (ids.generate_trace_id(), ids.generate_span_id()) != first
