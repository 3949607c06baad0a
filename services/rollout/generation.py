"""One batch of prompts from images to messages; runs in the engine's thread."""

import time
from collections.abc import Callable, Sequence

from services.rollout.engine import Engine, PreparedPrompt
from shared.errors import BadSample, BlobMissing
from shared.messages import Completed, Completion, ImageRef, Prompt, Voided, pack_ints, void_of

Answer = Completed | Voided | None
"""What becomes of a prompt: its group, a void, or None: an image is missing, somebody may try again later."""
Report = Callable[[int, Answer], None]
"""Told the index of a prompt in its batch and its answer, as soon as there is one."""


def generate_batch(
    engine: Engine,
    prompts: Sequence[Prompt],
    fetch_image: Callable[[ImageRef], bytes],
    replica: str,
    report: Report,
    stop: Callable[[], bool],
) -> None:
    """Answer all `prompts`, each as soon as its group is whole; once `stop` says true the rest go without an answer."""
    started = time.time()
    prepared: dict[int, PreparedPrompt] = {}
    for index, prompt in enumerate(prompts):
        if stop():
            return
        try:
            prepared[index] = engine.prepare(prompt, [fetch_image(image) for image in prompt.images])
        except BadSample as error:
            report(index, void_of(prompt, "bad-sample", str(error), "rollout"))
        except BlobMissing:
            report(index, None)
    if not prepared:
        return
    indices, batch = list(prepared), list(prepared.values())
    for position, completions in engine.generate(batch, stop):
        index = indices[position]
        report(index, completed(prompts[index], batch[position], completions, engine.patch_size, replica, started))


def completed(
    prompt: Prompt,
    prepared: PreparedPrompt,
    completions: list[Completion],
    patch_size: int,
    replica: str,
    started_at: float,
) -> Completed:
    """The group's message, finished now."""
    return Completed(
        prompt=prompt,
        completions=completions,
        prompt_ids=pack_ints(prepared.ids),
        image_grid_thw=prepared.image_grid_thw,
        patch_size=patch_size,
        replica=replica,
        started_at=started_at,
        finished_at=time.time(),
    )
