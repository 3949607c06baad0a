"""The decode loop: one token a row and pass, whole groups handed out as they end, rows of finished ones dropped.

Shapes: G groups of n rows make R rows; P is the longest prompt, V the vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.rollout.engine import PreparedPrompt
from services.rollout.engines.kv import GrowingCache
from services.rollout.sampling import Rules, choose
from shared.models.hf.forward import has_windows

_DROP_SHARE = 0.125
"""Rows are dropped once so large a share of them has ended: dropping copies the whole cache."""


@dataclass(frozen=True)
class Start:
    """Where decoding starts, one row a group: `logits` (G, V) after the prompt, `position` (G,) of the first new
    token, `prompt_mask` bool (G, P) true where a prompt token is, and the prompts' `cache` expanded to R rows.
    """

    logits: Tensor
    position: Tensor
    prompt_mask: Tensor
    cache: GrowingCache


@dataclass(frozen=True)
class Sampled:
    """One group: for each of its n rows token ids int32 (T,) and log-probs float32 (T,)."""

    group: int
    token_ids: list[np.ndarray]
    log_probs: list[np.ndarray]


class DecodeLoop:
    """Decodes all rows of some groups with `model`; `banned` is a bias (V,), `ends` bool (V,).

    `mrope`: a position has three axes, which are equal after a prompt.
    """

    def __init__(
        self, model: Any, prompts: Sequence[PreparedPrompt], start: Start, banned: Tensor, ends: Tensor, mrope: bool
    ) -> None:
        self._model, self._cache, self._banned, self._ends = model, start.cache, banned, ends
        self._mrope = mrope
        self._windowed = has_windows(model.config)
        device = start.logits.device
        sizes = [prompt.sampling.n for prompt in prompts]
        repeats = torch.tensor(sizes, device=device)
        self._group_of_row = np.repeat(np.arange(len(prompts)), sizes)
        self._rows_left = np.asarray(sizes)
        self._limits = _per_row(prompts, "max_new_tokens", repeats, torch.int64)
        self._rules = Rules.of(
            _per_row(prompts, "temperature", repeats, torch.float32), _per_row(prompts, "top_p", repeats, torch.float32)
        )
        longest = max(prompt.sampling.max_new_tokens for prompt in prompts)
        self._uniforms = _uniforms(prompts, longest).to(device)
        self._tokens = torch.zeros(len(self._group_of_row), longest, dtype=torch.int32, device=device)
        self._log_probs = torch.zeros(len(self._group_of_row), longest, device=device)
        self._lengths = np.zeros(len(self._group_of_row), dtype=np.int64)
        self._logits = start.logits.repeat_interleave(repeats, dim=0)
        self._position = start.position.repeat_interleave(repeats)
        mask = start.prompt_mask.repeat_interleave(repeats, dim=0)
        self._mask = None if bool(mask.all()) else mask
        self._rows = torch.arange(len(self._group_of_row), device=device)
        self._ended = torch.zeros(len(self._group_of_row), dtype=torch.bool, device=device)

    def run(self, stop: Callable[[], bool]) -> Iterator[Sampled]:
        """Yields each group as soon as its last row has ended; ends early when `stop` says so."""
        step = 0
        while not stop():
            chosen = self._choose(step)
            step += 1
            yield from self._whole_groups(chosen, step)
            if bool(self._ended.all()):
                return
            chosen = self._drop(chosen)
            self._forward(chosen)

    def _choose(self, step: int) -> Tensor:
        """The next token of each row, recorded for the rows that have not ended."""
        logits = self._logits.float() + self._banned
        tokens, log_probs = choose(logits, self._uniforms[self._rows, step], self._rules)
        self._tokens[self._rows, step] = tokens.to(torch.int32)
        self._log_probs[self._rows, step] = log_probs
        return tokens

    def _whole_groups(self, tokens: Tensor, length: int) -> Iterator[Sampled]:
        """Mark the rows that end with this token; hand out the groups that have no row left."""
        ending = (self._ends[tokens] | (length >= self._limits[self._rows])) & ~self._ended
        if not bool(ending.any()):
            return
        self._ended = self._ended | ending
        rows = self._rows[ending].cpu().numpy()
        self._lengths[rows] = length
        for group in np.unique(self._group_of_row[rows]):
            self._rows_left[group] -= int((self._group_of_row[rows] == group).sum())
            if self._rows_left[group] == 0:
                yield self._sampled(int(group))

    def _sampled(self, group: int) -> Sampled:
        rows = np.flatnonzero(self._group_of_row == group)
        tokens, log_probs = self._tokens[rows].cpu().numpy(), self._log_probs[rows].cpu().numpy()
        lengths = self._lengths[rows]
        return Sampled(
            group,
            [row[:length] for row, length in zip(tokens, lengths, strict=True)],
            [row[:length] for row, length in zip(log_probs, lengths, strict=True)],
        )

    def _drop(self, tokens: Tensor) -> Tensor:
        """Drop the rows that have ended when they are many; returns the tokens of the others."""
        if int(self._ended.sum()) < max(1.0, _DROP_SHARE * len(self._rows)):
            return tokens
        kept = torch.nonzero(~self._ended)[:, 0]
        self._cache.keep(kept)
        self._rows, self._position, self._ended = self._rows[kept], self._position[kept], self._ended[kept]
        self._rules = self._rules.rows(kept)
        self._mask = None if self._mask is None else self._mask[kept]
        return tokens[kept]

    def _forward(self, tokens: Tensor) -> None:
        """One pass: `tokens` at `position` give the next logits."""
        position = self._position[:, None]
        made = self._model(
            input_ids=tokens[:, None],
            position_ids=position[None].expand(3, -1, 1) if self._mrope else position,
            attention_mask=self._attention(),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache.advance()
        self._position = self._position + 1
        self._logits = made.logits[:, -1]

    def _attention(self) -> Tensor | None:
        """Bool, all but the padding of shorter prompts; None where no prompt is padded.

        (R, 1, 1, length) goes to every layer as it is; a model with sliding windows makes its own masks of (R, length).
        """
        if self._mask is None:
            return None
        new = self._cache.length + 1 - self._mask.shape[1]
        mask = torch.nn.functional.pad(self._mask, (0, new), value=True)
        return mask if self._windowed else mask[:, None, None, :]


def _per_row(prompts: Sequence[PreparedPrompt], name: str, repeats: Tensor, dtype: torch.dtype) -> Tensor:
    values = torch.tensor([getattr(prompt.sampling, name) for prompt in prompts], dtype=dtype, device=repeats.device)
    return values.repeat_interleave(repeats)


def _uniforms(prompts: Sequence[PreparedPrompt], longest: int) -> Tensor:
    """Numbers (R, longest) in [0, 1): a group's come from its own seed, whatever else is in the batch."""
    numbers = []
    for prompt in prompts:
        sampling = prompt.sampling
        generator = torch.Generator().manual_seed(sampling.seed % 2**63)
        own = torch.rand(sampling.n, sampling.max_new_tokens, generator=generator)
        numbers.append(torch.nn.functional.pad(own, (0, longest - sampling.max_new_tokens)))
    return torch.cat(numbers)
