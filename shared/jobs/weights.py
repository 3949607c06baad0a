"""Weights of a job's sources over its steps, as its file plans them."""

from collections.abc import Iterable, Iterator, Mapping

from shared.jobs.spec import JobSpec, Source


def planned_weights(
    spec: JobSpec, sources: Iterable[str], *, asked: Mapping[str, float] | None = None, since: int = 0
) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, weight by source) at step `since` and wherever a schedule changes one later.

    A weight that was `asked` for by request ends the schedule of its source.
    """
    asked = asked or {}
    own = {name: spec.sources.get(name, Source()) for name in sources}
    changes = {step for name, source in own.items() if name not in asked for step, _ in source.schedule if step > since}
    for step in sorted({since, *changes}):
        yield step, {name: asked[name] if name in asked else _at(source, step) for name, source in own.items()}


def _at(source: Source, step: int) -> float:
    return [source.weight, *(weight for since, weight in source.schedule if since <= step)][-1]


def weight_mistakes(planned: Iterable[tuple[int, Mapping[str, float]]]) -> list[str]:
    """The first step from which no source is left to train on."""
    for step, weights in planned:
        if not any(weights.values()):
            return [f"sources: every weight is 0 from step {step} on; expected at least one source to be trained on"]
    return []
