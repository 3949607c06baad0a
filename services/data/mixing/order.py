"""A job's prompts by ordinal: the training order and the held-out set, both pure functions of the job and its files."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate

import msgspec

from services.data.mixing.mixture import Mixture, Weights
from services.data.mixing.prompts import add_instructions
from services.data.reading.rows import Ready, Rows, Unusable
from services.data.reading.sources import Segment
from shared.errors import BadData
from shared.jobs.record import Change
from shared.jobs.spec import JobSpec, Source
from shared.messages import Kind, Prompt, RewardSpec, Sampling, Voided

Draft = Prompt | Voided
"""A group to publish, but for what is known only when it is admitted: version, step, time."""

DEFAULT_FORMAT_RATIO = 0.1
"""Weight of the format where a row does not say (V-Triune's reward server)."""


class TrainingOrder:
    """Ordinal → prompt, epoch after epoch. `at` blocks; raises BadData for weights that leave nothing to draw."""

    def __init__(
        self, job: str, spec: JobSpec, sources: Mapping[str, list[Segment]], rows: Rows, changes: Sequence[Change]
    ) -> None:
        self._job, self._spec, self._sources, self._rows = job, spec, sources, rows
        sizes = {name: [len(segment.rows) for segment in segments] for name, segments in sources.items()}
        self._mixture = Mixture(
            spec.seed,
            sizes,
            source_weights(spec, sources, changes),
            size_exponent=spec.data.size_exponent,
            stored=[name for name, source in spec.sources.items() if source.order == "stored"],
        )
        self.total = self._mixture.total(spec.data.epochs) if spec.data.epochs else None
        """How many ordinals there are; None: no end."""

    def at(self, ordinal: int) -> Draft:
        pick = self._mixture.at(ordinal)
        row = self._rows.at(self._sources[pick.source][pick.segment], pick.row)
        if isinstance(row, Unusable):
            return _voided(self._job, "train", ordinal, pick.source, row)
        own = self._spec.sources.get(pick.source, Source())
        sampling = Sampling(
            n=own.samples_per_prompt or self._spec.algorithm.samples_per_prompt,
            temperature=self._spec.sampling.temperature,
            top_p=self._spec.sampling.top_p,
            max_new_tokens=own.max_new_tokens or self._spec.sampling.max_new_tokens,
            seed=_seed(self._spec.seed, "train", ordinal),
        )
        return _prompt(self._job, self._spec, "train", ordinal, row, sampling, f"{self._spec.seed}/{ordinal}")


def order_length(spec: JobSpec, sources: Mapping[str, list[Segment]], *, epochs: int) -> int:
    """How many prompts so many passes over the sources have, at the job file's weights."""
    sizes = {name: [len(segment.rows) for segment in segments] for name, segments in sources.items()}
    return Mixture(spec.seed, sizes, source_weights(spec, sources, ())).total(epochs)


class HeldOut:
    """The held-out set in its fixed order: source by source, in file order. `at` blocks."""

    def __init__(self, job: str, spec: JobSpec, sources: Mapping[str, list[Segment]], rows: Rows) -> None:
        self._job, self._spec, self._rows = job, spec, rows
        self._segments = [(name, segment) for name, segments in sources.items() for segment in segments]
        self._starts = list(accumulate((len(segment.rows) for _, segment in self._segments), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, ordinal: int, version: int) -> Draft:
        """The prompt that evaluates `version` at `ordinal`: the same words and seed every time."""
        place = bisect_right(self._starts, ordinal) - 1
        source, segment = self._segments[place]
        row = self._rows.at(segment, ordinal - self._starts[place])
        if isinstance(row, Unusable):
            return msgspec.structs.replace(_voided(self._job, "eval", ordinal, source, row), version=version)
        sampling = Sampling(
            n=self._spec.evaluation.samples_per_prompt,
            temperature=self._spec.evaluation.temperature,
            max_new_tokens=self._spec.sources.get(source, Source()).max_new_tokens
            or self._spec.sampling.max_new_tokens,
            seed=_seed(self._spec.seed, "eval", ordinal),
        )
        key = f"eval/{row.sample.identity.sample_id}"
        prompt = _prompt(self._job, self._spec, "eval", ordinal, row, sampling, key)
        return msgspec.structs.replace(prompt, version=version, min_version=version)


def source_weights(spec: JobSpec, sources: Mapping[str, object], changes: Sequence[Change]) -> list[Weights]:
    """The weights from ordinal 0 on, and after each change, by the job's schedules and then by request.

    A schedule counts in steps of `prompts_per_step` ordinals, and ends where its source's weight is changed by request.
    Raises BadData for a source that the files do not have.
    """
    unknown = sorted(spec.sources.keys() - sources.keys())
    if unknown:
        raise BadData(f"sources.{unknown[0]}: the training files have no such source; they have {', '.join(sources)}")
    asked = [(change.since, name, change.value) for change in changes if (name := weight_source(change))]
    fixed = [(since, name, value) for since, name, value in asked if since is not None]
    first_asked = {name: since for since, name, _ in reversed(fixed)}
    planned = [
        (step * spec.algorithm.prompts_per_step, name, weight)
        for name, source in spec.sources.items()
        for step, weight in source.schedule
    ]
    kept = [entry for entry in planned if entry[0] < first_asked.get(entry[1], math.inf)]
    weights = {name: source.weight for name, source in spec.sources.items()}
    phases = [Weights(0, weights)]
    for since, name, value in sorted([*kept, *fixed], key=lambda entry: entry[0]):
        weights = weights | {name: value}
        if phases[-1].since == since:
            phases.pop()
        phases.append(Weights(since, weights))
    return phases


def weight_source(change: Change) -> str | None:
    """The source whose weight `change` sets; None for other changes."""
    if change.key.startswith("sources.") and change.key.endswith(".weight"):
        return change.key.removeprefix("sources.").removesuffix(".weight")
    return None


def _prompt(job: str, spec: JobSpec, kind: Kind, ordinal: int, row: Ready, sampling: Sampling, key: str) -> Prompt:
    sample = row.sample
    turns = list(sample.turns)
    if sample.verifier == "mathverify" and spec.data.cot_prompts:
        turns = add_instructions(turns, tagged=sample.format_ratio != 0, key=key)
    return Prompt(
        job=job,
        kind=kind,
        ordinal=ordinal,
        source=sample.identity.source,
        task=sample.identity.task,
        sample_id=sample.identity.sample_id,
        turns=turns,
        images=row.images,
        reward=RewardSpec(
            verifier=sample.verifier,
            answer=sample.answer,
            ground_truth=sample.ground_truth,
            accuracy_ratio=sample.accuracy_ratio,
            format_ratio=DEFAULT_FORMAT_RATIO if sample.format_ratio is None else sample.format_ratio,
            params=sample.params,
            total_steps=spec.total_steps,
            options=msgspec.to_builtins(spec.reward),
        ),
        sampling=sampling,
    )


def _voided(job: str, kind: Kind, ordinal: int, source: str, row: Unusable) -> Voided:
    return Voided(
        job=job,
        kind=kind,
        ordinal=ordinal,
        source=source,
        task=row.task or source,
        reason="bad-sample",
        detail=row.reason,
        stage="data",
        sample_id=row.sample_id,
    )


def _seed(seed: int, kind: Kind, ordinal: int) -> int:
    """A seed for one group, from 0 to 2^31 - 1."""
    digest = blake2b(f"{seed}/{kind}/{ordinal}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1
