"""The `hf` engine: transformers, one device, any model of the Qwen2-VL family; the default on a CPU.

A prompt is computed once a group and its keys and values are expanded to the n rows, which are decoded together with
those of all other groups.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers
from torch import Tensor

from services.rollout.engine import PreparedPrompt, PromptLimits, never
from services.rollout.engines.decode import DecodeLoop, Sampled, Start
from services.rollout.engines.kv import GrowingCache
from services.rollout.prepare import Preparer
from shared.errors import Corrupt, UserError
from shared.messages import Completion, Prompt, pack_floats, pack_ints
from shared.models.common import banned_for_model, end_token_ids, token_types

_PREFILL_TOKENS = 16384
"""Prompt tokens, padding included, that are prefilled together: bounds the memory of a batch of long prompts."""


class HfEngine:
    """See `services.rollout.engine.Engine`."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, limits: PromptLimits) -> None:
        self.model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._ids_of_kinds = {
            "image_token_id": model.config.image_token_id, "video_token_id": model.config.video_token_id
        }  # fmt: skip
        self._preparer = Preparer(tokenizer, image_processor, **self._ids_of_kinds, limits=limits)
        vocab = model.config.get_text_config().vocab_size
        self._banned = torch.zeros(vocab, device=model.device)
        self._banned[banned_for_model(model.config, model.generation_config, tokenizer)] = -torch.inf
        self._end_ids = end_token_ids(model.generation_config.eos_token_id, tokenizer)
        self._ends = torch.zeros(vocab, dtype=torch.bool, device=model.device)
        self._ends[self._end_ids] = True
        self.version = -1

    @classmethod
    def open(cls, name: str, *, dtype: str, limits: PromptLimits) -> "HfEngine":
        """The engine of a model folder or hub id, on the GPU if there is one; raises UserError when it can't load."""
        transformers.logging.set_verbosity_error()  # the service's own log is one JSON line an event
        transformers.logging.disable_progress_bar()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model = transformers.AutoModelForImageTextToText.from_pretrained(name, dtype=getattr(torch, dtype))
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
            image_processor = transformers.AutoImageProcessor.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise UserError(f"model {name!r} cannot be loaded: {str(error).splitlines()[0]}") from error
        if not hasattr(model.model, "get_rope_index"):
            raise UserError(f"model {name!r} is a {type(model).__name__}; engine hf runs the Qwen2-VL family")
        return cls(model.to(device), tokenizer, image_processor, limits)

    @property
    def patch_size(self) -> int:
        return self.model.config.vision_config.patch_size

    def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt:
        return self._preparer.prepare(prompt, images)

    @torch.inference_mode()
    def load(self, version: int, blobs: Sequence[bytes]) -> None:
        own = self.model.state_dict(keep_vars=True)
        for blob in blobs:
            for name, tensor in safetensors.torch.load(blob).items():
                if name not in own or own[name].shape != tensor.shape:
                    raise Corrupt(
                        f"the weights of version {version} hold {name!r} of shape {tuple(tensor.shape)}; "
                        f"the model has {tuple(own[name].shape) if name in own else 'no such tensor'}"
                    )
                own[name].copy_(tensor)
        self.version = version

    def generate(
        self, prompts: Sequence[PreparedPrompt], stop: Callable[[], bool] = never
    ) -> Iterator[tuple[int, list[Completion]]]:
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
        batch = [prompts[index] for index in order]
        with torch.inference_mode():
            loop = DecodeLoop(self.model, batch, self._prefill(batch), self._banned, self._ends)
            for sampled in loop.run(stop):
                yield order[sampled.group], self._completions(sampled)

    def _prefill(self, prompts: Sequence[PreparedPrompt]) -> Start:
        """Compute all prompts (rising in length) chunk by chunk."""
        longest = max(len(prompt.ids) for prompt in prompts)
        logits, positions, masks, prefixes, repeats = [], [], [], [], []
        for chunk in _chunks(prompts):
            mask, position, made = self._forward(chunk)
            logits.append(made.logits[:, -1].float())
            positions.append(position)
            masks.append(torch.nn.functional.pad(mask, (longest - mask.shape[1], 0)))
            prefixes.append([(layer.keys, layer.values) for layer in made.past_key_values.layers])
            repeats.append(torch.tensor([prompt.sampling.n for prompt in chunk], device=mask.device))
        limit = max(prompt.sampling.max_new_tokens for prompt in prompts)
        return Start(torch.cat(logits), torch.cat(positions), torch.cat(masks), GrowingCache(prefixes, repeats, limit))

    def _forward(self, prompts: Sequence[PreparedPrompt]) -> tuple[Tensor, Tensor, Any]:
        """Left-padded forward of some prompts: mask bool (G, P), first new position (G,), the model's output."""
        device = self.model.device
        ids, mask = _left_pad(prompts)
        kinds = token_types(ids, **self._ids_of_kinds)
        grids = [grid for prompt in prompts for grid in prompt.image_grid_thw]
        pixels = [prompt.pixel_values for prompt in prompts if prompt.pixel_values is not None]
        grid_thw = torch.tensor(grids, device=device) if grids else None
        on_device = [torch.from_numpy(array).to(device) for array in (ids, kinds, mask)]
        position_ids, _ = self.model.model.get_rope_index(
            on_device[0], mm_token_type_ids=on_device[1], image_grid_thw=grid_thw, attention_mask=on_device[2]
        )
        made = self.model(
            input_ids=on_device[0],
            attention_mask=on_device[2],
            position_ids=position_ids,
            pixel_values=torch.from_numpy(np.concatenate(pixels)).to(device) if pixels else None,
            image_grid_thw=grid_thw,
            use_cache=True,
            logits_to_keep=1,
        )
        return on_device[2].bool(), position_ids.amax(dim=(0, 2)) + 1, made

    def _completions(self, sampled: Sampled) -> list[Completion]:
        texts = self._tokenizer.batch_decode([row.tolist() for row in sampled.token_ids], skip_special_tokens=True)
        return [
            Completion(
                token_ids=pack_ints(ids),
                log_probs=pack_floats(log_probs),
                text=text,
                finish="stop" if int(ids[-1]) in self._end_ids else "length",
                versions=[(self.version, len(ids))],
            )
            for ids, log_probs, text in zip(sampled.token_ids, sampled.log_probs, texts, strict=True)
        ]


def _left_pad(prompts: Sequence[PreparedPrompt]) -> tuple[np.ndarray, np.ndarray]:
    """Ids int64 (G, P), 0 in the padding, and mask int64 (G, P), 1 where a token is."""
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = np.zeros((len(prompts), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt.ids) :] = prompt.ids
        mask[row, longest - len(prompt.ids) :] = 1
    return ids, mask


def _chunks(prompts: Sequence[PreparedPrompt]) -> Iterator[list[PreparedPrompt]]:
    """Runs of prompts (rising in length) whose padded tokens stay below the bound, one prompt at least."""
    chunk: list[PreparedPrompt] = []
    for prompt in prompts:
        if chunk and (len(chunk) + 1) * len(prompt.ids) > _PREFILL_TOKENS:
            yield chunk
            chunk = []
        chunk.append(prompt)
    if chunk:
        yield chunk
