"""Supervised steps on drawn samples: batches of demonstrations, and the loss on their answers.

All images are 84 x 84, so they are patched and attended together. Shapes: B samples, L tokens of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedTokenizerFast

from triune.demo.dataset import training_stream
from triune.demo.tasks import Drawn, demonstration
from triune.demo.tasks.drawn import SIZE
from triune.demo.tiny_vlm import image_processor
from triune.demo.tokenizer import IMAGE_PLACEHOLDER, TURN_END

_ATTENTION = "triune_flash_equal_images"
"""`flash` in the name makes transformers hand over all images of a batch in one call, instead of one by one."""
_HOLE = "\0"


@dataclass(frozen=True)
class Batch:
    """`ids` (B, L) right-padded; `answer` bool (B, L) true where a token is of an answer; `pixels` of all images."""

    ids: Tensor
    answer: Tensor
    pixels: Tensor


class Batches:
    """Batches of demonstrations from the training stream of the data set with `seed`, tasks drawn by weight.

    They look as the services would show them to the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, weights: dict[str, float], *, seed: int) -> None:
        self._tokenizer = tokenizer
        self._tasks, self._weights = list(weights), list(weights.values())
        self._streams = {task: training_stream(seed, task) for task in weights}
        patches = (1, SIZE // 14, SIZE // 14)
        self.grid = patches
        self._image = IMAGE_PLACEHOLDER * (SIZE // 28) ** 2

    def draw(self, rng: Random, size: int, wrong_share: float) -> Batch:
        """`size` demonstrations, each with its task's mistake with probability `wrong_share`."""
        samples = [next(self._streams[task]) for task in rng.choices(self._tasks, self._weights, k=size)]
        answers = [demonstration(sample, rng.random() < wrong_share) + TURN_END for sample in samples]
        return self.batch(samples, answers)

    def batch(self, samples: Sequence[Drawn], answers: Sequence[str]) -> Batch:
        """The batch of `samples` with those answers."""
        prompt_ids = self._tokenizer([self.prompt(sample.question) for sample in samples])["input_ids"]
        answer_ids = self._tokenizer(list(answers))["input_ids"]
        longest = max(len(p) + len(a) for p, a in zip(prompt_ids, answer_ids, strict=True))
        ids = torch.full((len(samples), longest), self._tokenizer.pad_token_id)
        answer = torch.zeros_like(ids, dtype=torch.bool)
        for row, (p, a) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
            ids[row, : len(p) + len(a)] = torch.tensor(p + a)
            answer[row, len(p) : len(p) + len(a)] = True
        return Batch(ids, answer, torch.from_numpy(patches([sample.image for sample in samples])))

    def prompt(self, question: str) -> str:
        """The conversation with the image in front of `question`, placeholders expanded."""
        return self._frame().replace(_HOLE, question)

    @lru_cache(maxsize=1)  # noqa: B019  (one object a warm start)
    def _frame(self) -> str:
        content = [{"type": "image"}, {"type": "text", "text": _HOLE}]
        turns = [{"role": "user", "content": content}]
        text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return text.replace(IMAGE_PLACEHOLDER, self._image)


def patches(images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """What the image processor makes of 84 x 84 RGB images, all at once: (images · 36, 1176)."""
    processor = _processor()
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images]) / np.float32(255)
    pixels = (pixels - np.float32(processor.image_mean)) / np.float32(processor.image_std)
    side, merge, patch = SIZE // 28, processor.merge_size, processor.patch_size
    cut = pixels.reshape(len(images), side, merge, patch, side, merge, patch, 3)
    cut = cut.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None]
    twice = np.broadcast_to(cut, (*cut.shape[:6], processor.temporal_patch_size, patch, patch))
    return np.ascontiguousarray(twice, dtype=np.float32).reshape(len(images) * 36, -1)


@lru_cache(maxsize=1)
def _processor() -> Any:
    return image_processor()


def answer_loss(model: Any, batch: Batch, grid: tuple[int, int, int]) -> Tensor:
    """Mean negative log-likelihood of the answers' tokens."""
    ids = batch.ids
    kinds = (ids[:1] == model.config.image_token_id).long()
    grids = torch.tensor([grid]).expand(len(ids), 3)
    # All prompts begin alike (turn mark, image), so one row's positions are everybody's.
    positions, _ = model.model.get_rope_index(ids[:1], mm_token_type_ids=kinds, image_grid_thw=grids[:1])
    hidden = model.model(
        input_ids=ids,
        pixel_values=batch.pixels,
        image_grid_thw=grids,
        position_ids=positions.expand(3, len(ids), -1),
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][batch.answer[:, 1:]])
    return F.cross_entropy(logits, ids[:, 1:][batch.answer[:, 1:]])


def batch_images(model: Any) -> None:
    """From now on `model` attends to all images of a batch at once; they must be of one size (and fit one window)."""
    model.set_attn_implementation({"": "sdpa", "text_config": "sdpa", "vision_config": _ATTENTION})


def _attend_equal_images(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention inside each image alone: heads as (1, H, patches of all images, D), boundaries in `cu_seq_lens_q`."""
    images = len(cu_seq_lens_q) - 1
    query, key, value = (part[0].unflatten(1, (images, -1)).transpose(0, 1) for part in (query, key, value))
    made = F.scaled_dot_product_attention(query, key, value, scale=scaling)
    return made.transpose(1, 2).flatten(0, 1)[None], None


AttentionInterface.register(_ATTENTION, _attend_equal_images)
