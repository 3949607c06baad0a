"""From a message to what the model sees, within the job's limits."""

from collections.abc import Sequence

from services.rollout.engine import PreparedPrompt
from shared.messages import Prompt
from shared.models.inputs import Inputs, check_length


def prepare(prompt: Prompt, images: Sequence[bytes], inputs: Inputs, max_prompt_tokens: int) -> PreparedPrompt:
    """`prompt` whose encoded images are `images`; raises BadSample when it can't be used or is too long."""
    made = [inputs.image(data, alone=len(images) == 1) for data in images]
    found = inputs.prompt(prompt.turns, made)
    check_length(len(found.ids), max_prompt_tokens)
    boxes = inputs.family.boxes or ""
    names = tuple(inputs.image_key(image.blob.digest, alone=len(images) == 1) for image in prompt.images)
    return PreparedPrompt(found.ids, found.logical_ids, found.images, prompt.sampling, boxes, names)
