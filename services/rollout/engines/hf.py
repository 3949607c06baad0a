"""The `hf` engine: transformers, one device, any known family; the default on a CPU.

A prompt is computed once a group and its keys and values are expanded to the n rows, which are decoded together with
those of all other groups.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from services.rollout.engine import Facts, PreparedPrompt, PromptLimits
from services.rollout.engines import attention
from services.rollout.engines.decode import DecodeLoop, Sampled, Start
from services.rollout.engines.features import FeatureCache
from services.rollout.engines.feed import AllAtOnce, Feed
from services.rollout.engines.kv import GrowingCache
from services.rollout.engines.prepare import prepare
from shared.blobs.weights import WeightsAt
from shared.errors import Corrupt
from shared.messages import Completion, Prompt, pack_floats, pack_ints
from shared.models.hf import adapters, selfcheck
from shared.models.hf.convolutions import flatten_convolutions
from shared.models.hf.forward import encoder_outputs, position_ids, positions_of
from shared.models.hf.loading import open_inputs, open_model
from shared.models.inputs import Inputs, Kept, PixelLimits
from shared.models.roles import role_of

_PREFILL_TOKENS = 16384
"""Prompt tokens, padding included, that are prefilled together: bounds the memory of a batch of long prompts."""


class HfEngine:
    """See `services.rollout.engines.batching.BlockingEngine`."""

    def __init__(self, model: Any, inputs: Inputs, max_prompt_tokens: int, feature_gib: float = 0.0) -> None:
        """`feature_gib`: image features that are kept for later groups, at most."""
        self.model = model.eval().requires_grad_(False)
        attention.install(self.model)
        flatten_convolutions(self.model)
        self.inputs = inputs
        self._features = FeatureCache(self.model, inputs, int(feature_gib * 2**30))
        self._max_prompt_tokens = max_prompt_tokens
        self._positions = positions_of(inputs, model)
        self._banned = torch.zeros(inputs.vocab_size, device=model.device)
        self._banned[inputs.banned] = -torch.inf
        self._ends = torch.zeros(inputs.vocab_size, dtype=torch.bool, device=model.device)
        self._ends[inputs.ends] = True
        self._tensors: dict[str, Tensor] = self.model.state_dict(keep_vars=True)
        self.version = -1
        self._asleep: list[tuple[torch.nn.Parameter, torch.Size]] = []
        self.self_check = float("nan")

    @classmethod
    def open(
        cls,
        name: str,
        *,
        dtype: str,
        limits: PromptLimits,
        banned_tokens: Sequence[str] = (),
        kept: Kept | None = None,
        feature_gib: float = 0.0,
    ) -> "HfEngine":
        """The engine of a model folder or hub id, on the GPU if there is one; raises BadJob when it can't load."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        pixels = PixelLimits(limits.min_image_pixels, limits.max_image_pixels)
        inputs = open_inputs(name, pixels=pixels, banned_tokens=banned_tokens, kept=kept)
        model = open_model(name, dtype=getattr(torch, dtype))
        engine = cls(model.to(device), inputs, limits.max_prompt_tokens, feature_gib)
        engine.self_check = engine._check()
        return engine

    def _check(self) -> float:
        """The largest |difference| of a sampled token's log-prob from the plain forward's; raises BadJob."""
        sampling = selfcheck.probe_sampling()
        prompts = selfcheck.probe_prompts(self.inputs)
        batch = [PreparedPrompt(one.ids, one.logical_ids, one.images, sampling) for one in prompts]
        sampled = dict(self.generate(batch))
        return selfcheck.refuse_samples(self.model, self.inputs, [sampled[index] for index in range(len(batch))])

    @property
    def facts(self) -> Facts:
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {"engine": "hf", "device": str(self.model.device), "dtype": dtype, "self_check": self.self_check}

    @property
    def patch_size(self) -> int:
        return self.inputs.patch_size

    def prepare(self, prompt: Prompt, images: Sequence[bytes]) -> PreparedPrompt:
        return prepare(prompt, images, self.inputs, self._max_prompt_tokens)

    def sleep(self) -> None:
        """The parameters let go of their memory; buffers, which are small, stay."""
        self._asleep = [(parameter, parameter.shape) for parameter in self.model.parameters()]
        for parameter, _ in self._asleep:
            parameter.data = parameter.data.new_empty(0)
        self._features.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def load(self, at: WeightsAt) -> None:
        asleep, self._asleep = self._asleep, []
        for parameter, shape in asleep:
            parameter.data = parameter.data.new_empty(shape)
        loaded = self._copy(at)
        if asleep and (missing := {name for name, _ in self.model.named_parameters()} - loaded):
            raise Corrupt(f"version {at.version} wakes the engine without {sorted(missing)[0]!r}; expected all tensors")
        if any(role_of(name) in ("vit", "connector") for name in loaded):
            self._features.clear()
        self.version = at.version

    @torch.inference_mode()
    def _copy(self, at: WeightsAt) -> set[str]:
        """Copy the `changed` tensors and return their names."""
        own = self._tensors
        with adapters.opened(at.files, at.changed) as tensors:
            for name, stored in tensors.items():
                if name not in own or tuple(own[name].shape) != stored.shape:
                    raise Corrupt(
                        f"the weights of version {at.version} hold {name!r} of shape {stored.shape}; "
                        f"the model has {tuple(own[name].shape) if name in own else 'no such tensor'}"
                    )
            for name, stored in tensors.items():
                own[name].copy_(stored.read())
            return set(tensors)

    def generate(self, prompts: Sequence[PreparedPrompt]) -> Iterator[tuple[int, list[Completion]]]:
        """Sample all groups together; yields (index into `prompts`, its n completions) as soon as a group is whole."""
        return self.stream(AllAtOnce(prompts))

    def stream(self, feed: Feed) -> Iterator[tuple[int, list[Completion]]]:
        loop = DecodeLoop(self.model, self._prefill, self._banned, self._ends, self.inputs.family.mrope)
        with torch.inference_mode():
            for sampled in loop.run(feed):
                yield sampled.group, self._completions(sampled)

    def _prefill(self, prompts: Sequence[PreparedPrompt]) -> Start:
        """Compute all prompts (rising in length) chunk by chunk."""
        longest = max(len(prompt.ids) for prompt in prompts)
        logits, positions, masks, prefixes, repeats = [], [], [], [], []
        for chunk in _chunks(prompts):
            mask, position, made = self._forward(chunk)
            logits.append(made.logits[:, -1].float())
            positions.append(position)
            masks.append(torch.nn.functional.pad(mask, (longest - mask.shape[1], 0)))
            prefixes.append(made.past_key_values.layers)
            repeats.append(torch.tensor([prompt.sampling.n for prompt in chunk], device=mask.device))
        limit = max(prompt.sampling.max_new_tokens for prompt in prompts)
        return Start(torch.cat(logits), torch.cat(positions), torch.cat(masks), GrowingCache(prefixes, repeats, limit))

    def _forward(self, prompts: Sequence[PreparedPrompt]) -> tuple[Tensor, Tensor, Any]:
        """Left-padded forward of some prompts: mask bool (G, P), first new position (G,), the model's output."""
        device = self.model.device
        ids = _left_pad([prompt.ids for prompt in prompts])
        mask = _left_pad([np.ones_like(prompt.ids) for prompt in prompts])
        places = [self._positions(prompt.ids, prompt.images) for prompt in prompts]
        arguments = {"input_ids": ids, "attention_mask": mask}
        if self.inputs.family.kinds_argument:
            arguments[self.inputs.family.kinds_argument] = self.inputs.kinds(ids)
        padded = np.stack([_left_pad(list(axis)) for axis in zip(*places, strict=True)])  # (A, G, P)
        made = self.model(
            **{name: torch.from_numpy(value).to(device) for name, value in arguments.items()},
            **encoder_outputs(self._features.of(prompts)),
            position_ids=position_ids(torch.from_numpy(padded).to(device)),
            past_key_values=self._empty_cache(),
            use_cache=True,
            logits_to_keep=1,
        )
        first = torch.tensor([int(place.max()) + 1 for place in places], device=device)
        return torch.from_numpy(mask).to(device).bool(), first, made

    def _empty_cache(self) -> DynamicCache:
        """Told its configuration it knows which layers carry a state; untold it keeps all of a sliding layer's keys."""
        recurrent = self.inputs.family.recurrent
        return DynamicCache(config=self.model.config.get_text_config()) if recurrent else DynamicCache()

    def _completions(self, sampled: Sampled) -> list[Completion]:
        return [
            Completion(
                token_ids=pack_ints(ids),
                log_probs=pack_floats(log_probs),
                text=self.inputs.text(ids.tolist()),
                finish="stop" if int(ids[-1]) in self.inputs.ends else "length",
                versions=[(self.version, len(ids))],
            )
            for ids, log_probs in zip(sampled.token_ids, sampled.log_probs, strict=True)
        ]


def _left_pad(rows: Sequence[np.ndarray]) -> np.ndarray:
    """int64 (G, P), 0 in the padding."""
    longest = max(map(len, rows))
    padded = np.zeros((len(rows), longest), dtype=np.int64)
    for row, values in enumerate(rows):
        padded[row, longest - len(values) :] = values
    return padded


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
