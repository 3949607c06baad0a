"""What a job file may say, and hardly anybody means: sentences for who submits it; the job is taken all the same."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from services.monitor.checks.hub import hub_note
from shared.errors import BadData
from shared.jobs.spec import JobSpec
from shared.samples.files import count_rows, inspect_files
from shared.samples.places import Roots
from shared.samples.plugins import left_out

MANY_COMPLETIONS = 256
FEW_PROMPT_TOKENS = 32
LONG_ANSWER = 65_536
MANY_STEPS = 200


def warnings(spec: JobSpec, roots: Roots, plugin_roots: Sequence[Path] = ()) -> list[str]:
    """One sentence each; reads the files' footers, no row, and may ask the hub."""
    return [*_of_model(spec), *_of_numbers(spec), *_of_data(spec, roots), *_of_plugins(spec, plugin_roots)]


def _of_model(spec: JobSpec) -> Iterator[str]:
    if not Path(spec.model).expanduser().is_dir() and (note := hub_note(spec.model)) is not None:
        yield note


def _of_numbers(spec: JobSpec) -> Iterator[str]:
    algorithm, sampling = spec.algorithm, spec.sampling
    if algorithm.samples_per_prompt > MANY_COMPLETIONS:
        yield f"algorithm.samples_per_prompt is {algorithm.samples_per_prompt}; 4 to 64 completions are usual"
    if algorithm.prompts_per_step % algorithm.updates_per_step:
        yield (
            f"algorithm.updates_per_step is {algorithm.updates_per_step}, which does not divide "
            f"prompts_per_step, {algorithm.prompts_per_step}: updates of a step weigh differently"
        )
    if algorithm.max_staleness >= spec.total_steps:
        yield (
            f"algorithm.max_staleness is {algorithm.max_staleness} at {spec.total_steps} steps: "
            "every rollout may be of the first weights"
        )
    if spec.data.max_prompt_tokens < FEW_PROMPT_TOKENS:
        yield f"data.max_prompt_tokens is {spec.data.max_prompt_tokens}: a longer prompt is void, and an image alone is"
    if sampling.max_new_tokens > LONG_ANSWER:
        yield f"sampling.max_new_tokens is {sampling.max_new_tokens}, more than models are made for"
    if spec.learner.checkpoint_every == 0 and spec.total_steps > MANY_STEPS:
        yield f"learner.checkpoint_every is 0 at {spec.total_steps} steps: a learner that dies begins anew"


def _of_data(spec: JobSpec, roots: Roots) -> Iterator[str]:
    if not spec.data.held_out:
        yield "data.held_out is empty: there will be no reward before and after"
    train, _ = inspect_files(spec.data.train, roots=roots)
    held_out, _ = inspect_files(spec.data.held_out, roots=roots) if spec.data.held_out else ([], [])
    both = {str(file.place) for file in train} & {str(file.place) for file in held_out}
    if both:
        yield f"data.train and data.held_out have {len(both)} files in common, such as {min(both)}"
    wanted = spec.total_steps * spec.algorithm.prompts_per_step
    try:
        rows = sum(count_rows(train).values())
    except BadData:
        return
    if spec.data.epochs and rows and wanted > rows * spec.data.epochs:
        yield (
            f"data.epochs is {spec.data.epochs}: {rows} rows are used up after "
            f"{rows * spec.data.epochs // spec.algorithm.prompts_per_step} of {spec.total_steps} steps"
        )


def _of_plugins(spec: JobSpec, roots: Sequence[Path]) -> Iterator[str]:
    with contextlib.suppress(BadData):  # a mistake of the job then
        yield from (f"reward.plugins: {sentence}" for sentence in left_out(spec.reward.plugins, roots))
