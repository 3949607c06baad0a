"""From a message to what the model sees: chat template, image patches, expanded placeholders."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from PIL import Image

from services.rollout.engine import PreparedPrompt, PromptLimits
from shared.errors import BadSample
from shared.messages import ChatTurn, Prompt
from shared.models.common import image_token_count
from shared.samples.images import decode_image

IMAGE_MARK = "<image>"
"""Where an image stands in a user turn (V-Triune's data format)."""
_DATA_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError, TemplateError)
"""What a tokenizer, a chat template or an image processor raises for text or pixels that it did not expect."""


class Preparer:
    """The tokenizer and the image processor of one model, with the job's limits on a prompt."""

    def __init__(
        self,
        tokenizer: Any,
        image_processor: Any,
        *,
        image_token_id: int,
        video_token_id: int | None,
        limits: PromptLimits,
    ) -> None:
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._image_token_id, self._video_token_id = image_token_id, video_token_id
        self._limits = limits

    def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt:
        """Raises BadSample: an image can't be decoded, the placeholders are not one an image, the prompt is too long.

        Whatever else the model's own code raises for this text or these pixels is a bad sample, too: another replica
        would fail in the same way.
        """
        try:
            return self._prepare(prompt, images)
        except _DATA_ERRORS as error:
            raise BadSample(f"the prompt can't be prepared: {type(error).__name__}: {error}") from error

    def _prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt:
        decoded = [
            decode_image(data, min_pixels=self._limits.min_image_pixels, max_pixels=self._limits.max_image_pixels)
            for data in images
        ]
        pixel_values, grids = self._patches(decoded)
        merge = self._image_processor.merge_size
        tokens = self.tokenize(prompt.turns)
        if self._video_token_id in tokens:
            raise BadSample("the prompt holds a video placeholder, which was typed into its text; expected images only")
        ids = expand_placeholders(tokens, self._image_token_id, [image_token_count(grid, merge) for grid in grids])
        if len(ids) > self._limits.max_prompt_tokens:
            raise BadSample(
                f"the prompt has {len(ids)} tokens, images included; "
                f"data.max_prompt_tokens allows {self._limits.max_prompt_tokens}"
            )
        return PreparedPrompt(ids, pixel_values, grids, prompt.sampling)

    def tokenize(self, turns: Sequence[ChatTurn]) -> list[int]:
        """Token ids of the conversation by the model's own chat template, one placeholder an image."""
        text = self._tokenizer.apply_chat_template(
            [template_turn(turn) for turn in turns], add_generation_prompt=True, tokenize=False
        )
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _patches(self, images: Sequence[Image.Image]) -> tuple[NDArray[np.float32] | None, list[tuple[int, int, int]]]:
        if not images:
            return None, []
        try:
            made = self._image_processor(images=list(images), return_tensors="np")
        except ValueError as error:
            raise BadSample(f"the image processor refuses an image: {error}") from error
        grids = [(int(t), int(h), int(w)) for t, h, w in made["image_grid_thw"]]
        return np.asarray(made["pixel_values"], dtype=np.float32), grids


def template_turn(turn: ChatTurn) -> dict[str, Any]:
    """A turn for the chat template: a user turn is split at its image marks, and empty pieces are dropped.

    Source: V-Triune's loader (verl/utils/dataset/rl_dataset.py at 39bcf0d).
    """
    if turn.role != "user":
        return {"role": turn.role, "content": turn.content}
    content: list[dict[str, str]] = []
    for index, piece in enumerate(turn.content.split(IMAGE_MARK)):
        if index:
            content.append({"type": "image"})
        if piece:
            content.append({"type": "text", "text": piece})
    return {"role": "user", "content": content}


def expand_placeholders(ids: Sequence[int], image_token_id: int, counts: Sequence[int]) -> NDArray[np.int32]:
    """`ids` with the k-th image placeholder repeated `counts[k]` times.

    Raises BadSample when they differ in number, or when two stand side by side: the model tells one image from the next
    by the tokens between them.
    """
    tokens = np.asarray(ids, dtype=np.int32)
    placeholder = tokens == image_token_id
    if int(placeholder.sum()) != len(counts):
        raise BadSample(
            f"the prompt has {int(placeholder.sum())} image placeholders for {len(counts)} images; expected one each"
        )
    if bool((placeholder[1:] & placeholder[:-1]).any()):
        raise BadSample("two image placeholders stand side by side; expected the template's marks around each")
    repeats = np.ones(len(tokens), dtype=np.int64)
    repeats[placeholder] = counts
    return np.repeat(tokens, repeats)
