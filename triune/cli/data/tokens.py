"""Prompt tokens of a row, images included, as a job's model counts them; run inside the processes that check rows."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial

from services.data.mixing.prompts import with_longest_instructions
from services.data.reading.sample import Sample
from shared.jobs.spec import JobSpec
from shared.models.inputs import Inputs, PixelLimits, check_length


def for_workers(spec: JobSpec) -> Callable[[], Callable[[Sample], int]]:
    """`counting`, to be called in each process; raises BadJob at once when the model's configuration cannot be loaded.

    Else every process would ask an absent hub for itself.
    """
    with redirect_stdout(sys.stderr):
        from shared.models.hf.loading import check_config

    check_config(spec.model)
    return partial(counting, spec)


def counting(spec: JobSpec) -> Callable[[Sample], int]:
    """Counts with the tokenizer and the image processor of `spec.model`, and refuses what the job would void.

    The sentence that a job appends to a mathverify row differs by ordinal: the longest one is counted. Raises BadJob
    when the model cannot be loaded.
    """
    with redirect_stdout(sys.stderr):  # libraries that are loaded here warn on standard output, which holds results
        from shared.models.hf.loading import open_inputs  # and torch, which looking at data does not need

    pixels = PixelLimits(spec.data.min_image_pixels, spec.data.max_image_pixels)
    return partial(_count, spec, open_inputs(spec.model, pixels=pixels))


def _count(spec: JobSpec, inputs: Inputs, sample: Sample) -> int:
    turns = sample.turns
    if sample.verifier == "mathverify" and spec.data.cot_prompts:
        turns = tuple(with_longest_instructions(turns, tagged=sample.format_ratio != 0))
    tokens = inputs.count(turns, [(image.width, image.height) for image in sample.images])
    check_length(tokens, spec.data.max_prompt_tokens)
    return tokens
