"""The decode loop: one token a row and pass; whole groups are handed out as they end, others take their rows' place.

Shapes: G groups of n rows make R rows; P is the longest prompt, V the vocabulary, W the most tokens of a completion.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.rollout.engine import PreparedPrompt
from services.rollout.engines.feed import Feed
from services.rollout.engines.kv import GrowingCache
from services.rollout.engines.sampling import Rules, choose
from shared.models.hf.forward import has_windows

_DEAD_SHARE = 0.125
"""Rows that have ended are dropped, and others begun, once they are so large a share: it copies the whole cache."""
_LOOK_EVERY = 16
"""Tokens after which groups that wait are begun all the same; at once where they are as many as those that are busy, so
that a row is copied for few others however slowly they come.
"""


@dataclass(frozen=True)
class Start:
    """Where decoding starts, one row a group: `logits` (G, V) after the prompt, `position` (G,) of the first new
    token, `prompt_mask` bool (G, P) true where a prompt token is, and the prompts' `cache` expanded to R rows.
    """

    logits: Tensor
    position: Tensor
    prompt_mask: Tensor
    cache: GrowingCache


Prefill = Callable[[Sequence[PreparedPrompt]], Start]
"""Computes prompts that rise in length."""


@dataclass(frozen=True)
class Sampled:
    """One group, by its number: for each of its n rows token ids int32 (T,) and log-probs float32 (T,)."""

    group: int
    token_ids: list[np.ndarray]
    log_probs: list[np.ndarray]


@dataclass(frozen=True)
class _Rows:
    """Numbers of each row, (R,) unless said otherwise; `age`: its tokens so far; `mask` (R, P): false in padding."""

    logits: Tensor  # (R, V)
    temperature: Tensor
    top_p: Tensor
    limit: Tensor
    position: Tensor
    age: Tensor
    ended: Tensor
    uniforms: Tensor  # (R, W)
    tokens: Tensor  # (R, W)
    log_probs: Tensor  # (R, W)
    mask: Tensor

    def pick(self, index: Tensor) -> "_Rows":
        return self._make(lambda name: getattr(self, name)[index])

    def beside(self, other: "_Rows") -> "_Rows":
        """Both, one after the other; masks end together, all else begins together."""

        def joined(name: str) -> Tensor:
            pair: list[Tensor] = [getattr(self, name), getattr(other, name)]
            if pair[0].dim() == 2:
                width = max(one.shape[1] for one in pair)
                pair = [_padded(one, width, left=name == "mask") for one in pair]
            return torch.cat(pair)

        return self._make(joined)

    def _make(self, value: Callable[[str], Tensor]) -> "_Rows":
        return _Rows(**{field.name: value(field.name) for field in dataclasses.fields(self)})


class DecodeLoop:
    """Decodes groups with `model` as they come; `banned` is a bias (V,), `ends` bool (V,).

    `mrope`: a position has three axes, which are equal after a prompt.
    """

    def __init__(self, model: Any, prefill: Prefill, banned: Tensor, ends: Tensor, mrope: bool) -> None:
        self._decoder, self._head = model.get_decoder(), model.get_output_embeddings()
        self._prefill, self._banned, self._ends, self._mrope = prefill, banned, ends, mrope
        self._windowed = has_windows(model.config)
        self._owners: list[tuple[int, int]] = []  # of each row: its group's number, and which of its rows it is
        self._made: dict[int, list[tuple[np.ndarray, np.ndarray] | None]] = {}  # by group, each row that has ended
        self._taken = self._live = self._since = 0
        self._rows: _Rows
        self._cache: GrowingCache

    def run(self, feed: Feed) -> Iterator[Sampled]:
        """Yields each group as soon as its last row has ended; returns once there is none left and none to begin."""
        while True:
            self._forget(feed.cancelled())
            self._refill(feed)
            if self._live == 0:
                return
            tokens = self._choose()
            yield from self._whole_groups(tokens)
            if self._live:
                self._forward(tokens)

    # ---------------------------------------------------------------- rows come and go

    def _forget(self, numbers: Sequence[int]) -> None:
        """The rows of these groups count as ended."""
        for number in numbers:
            self._made.pop(number, None)
            for row, (group, _) in enumerate(self._owners):
                if group == number and not bool(self._rows.ended[row]):
                    self._rows.ended[row] = True
                    self._live -= 1

    def _refill(self, feed: Feed) -> None:
        """Drop rows that have ended and begin groups that wait, when it is worth it."""
        dead = len(self._owners) - self._live
        is_many = self._live == 0 or dead >= max(1.0, _DEAD_SHARE * len(self._owners))
        self._since += 1
        if not is_many and self._since < _LOOK_EVERY and feed.ready(self._live) < self._live:
            return
        self._since = 0
        prompts = feed.take(self._live)
        if self._live == 0:
            self._owners = []
        elif dead and (is_many or prompts):
            self._drop()
        if prompts:
            self._begin(prompts)

    def _drop(self) -> None:
        """Let go of the rows that have ended, and of columns that are padding in all others."""
        kept = torch.nonzero(~self._rows.ended)[:, 0]
        mask = self._whole_mask()[kept]
        padding = int(mask.int().argmax(dim=1).min())
        self._cache.keep(kept, padding)
        self._rows = dataclasses.replace(self._rows.pick(kept), mask=mask[:, padding:])
        self._owners = [self._owners[row] for row in kept.tolist()]
        self._settle()

    def _begin(self, prompts: Sequence[PreparedPrompt]) -> None:
        """Compute the prompts and put their rows beside those that there are."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
        started = [prompts[index] for index in order]
        start = self._prefill(started)
        rows = _new_rows(started, start)
        if self._owners:
            self._rows = dataclasses.replace(self._rows, mask=self._whole_mask()).beside(rows)
            self._cache.join(start.cache)
        else:
            self._rows, self._cache = rows, start.cache
        for index, prompt in zip(order, started, strict=True):
            number, n = self._taken + index, prompt.sampling.n
            self._made[number] = [None] * n
            self._owners += [(number, row) for row in range(n)]
            self._live += n
        self._taken += len(prompts)
        self._settle()

    def _settle(self) -> None:
        """What follows from which rows there are."""
        self._rules = Rules.of(self._rows.temperature, self._rows.top_p)
        self._is_padded = not bool(self._rows.mask.all())
        self._index = torch.arange(len(self._owners), device=self._rows.age.device)

    # ---------------------------------------------------------------- one token

    def _choose(self) -> Tensor:
        """The next token (R,) of each row, recorded."""
        rows = self._rows
        at = torch.minimum(rows.age, rows.limit - 1)  # a row that has ended, and is still there, writes over its last
        logits = rows.logits.float() + self._banned
        tokens, log_probs = choose(logits, rows.uniforms[self._index, at], self._rules)
        rows.tokens[self._index, at] = tokens.to(torch.int32)
        rows.log_probs[self._index, at] = log_probs
        rows.age.add_(1)
        return tokens

    def _whole_groups(self, tokens: Tensor) -> Iterator[Sampled]:
        """Take what the rows have made that end with this token; hand out the groups that have no row left."""
        rows = self._rows
        ending = (self._ends[tokens] | (rows.age >= rows.limit)) & ~rows.ended
        if not bool(ending.any()):
            return
        rows.ended.logical_or_(ending)
        found = torch.nonzero(ending)[:, 0]
        columns = (found.tolist(), rows.age[found].tolist(), rows.tokens[found].cpu(), rows.log_probs[found].cpu())
        self._live -= len(found)
        for row, length, ids, log_probs in zip(*columns, strict=True):
            group, place = self._owners[row]
            self._made[group][place] = (ids[:length].numpy(), log_probs[:length].numpy())
        for group in sorted({self._owners[row][0] for row in columns[0]}):
            made = [one for one in self._made[group] if one is not None]
            if len(made) == len(self._made[group]):
                del self._made[group]
                yield Sampled(group, [ids for ids, _ in made], [log_probs for _, log_probs in made])

    def _forward(self, tokens: Tensor) -> None:
        """One pass: `tokens` at their positions give the next logits."""
        position = self._rows.position[:, None]
        made = self._decoder(
            input_ids=tokens[:, None],
            position_ids=position[None].expand(3, -1, 1) if self._mrope else position,
            attention_mask=self._attention(),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache.advance()
        logits = self._head(made.last_hidden_state[:, -1])
        self._rows = dataclasses.replace(self._rows, position=self._rows.position + 1, logits=logits)

    def _attention(self) -> Tensor | None:
        """Bool, all but the padding of shorter rows; None where no row is padded.

        (R, 1, 1, length) goes to every layer as it is; a model with sliding windows makes its own masks of (R, length).
        """
        if not self._is_padded:
            return None
        mask = _padded(self._whole_mask(), self._cache.length + 1, value=True)
        return mask if self._windowed else mask[:, None, None, :]

    def _whole_mask(self) -> Tensor:
        """(R, length): the rows' mask up to the newest token."""
        return _padded(self._rows.mask, self._cache.length, value=True)


def _new_rows(prompts: Sequence[PreparedPrompt], start: Start) -> _Rows:
    device = start.logits.device
    repeats = torch.tensor([prompt.sampling.n for prompt in prompts], device=device)
    width = max(prompt.sampling.max_new_tokens for prompt in prompts)

    def per_row(name: str, dtype: torch.dtype) -> Tensor:
        values = [getattr(prompt.sampling, name) for prompt in prompts]
        return torch.tensor(values, dtype=dtype, device=device).repeat_interleave(repeats)

    limit = per_row("max_new_tokens", torch.int64)
    return _Rows(
        logits=start.logits.repeat_interleave(repeats, dim=0),
        temperature=per_row("temperature", torch.float32),
        top_p=per_row("top_p", torch.float32),
        limit=limit,
        position=start.position.repeat_interleave(repeats),
        age=torch.zeros_like(limit),
        ended=torch.zeros_like(limit, dtype=torch.bool),
        uniforms=_uniforms(prompts, width).to(device),
        tokens=torch.zeros(len(limit), width, dtype=torch.int32, device=device),
        log_probs=torch.zeros(len(limit), width, device=device),
        mask=start.prompt_mask.repeat_interleave(repeats, dim=0),
    )


def _padded(rows: Tensor, width: int, *, left: bool = False, value: float = 0) -> Tensor:
    """`rows` (R, ·) widened to (R, width)."""
    missing = width - rows.shape[1]
    return torch.nn.functional.pad(rows, (missing, 0) if left else (0, missing), value=value) if missing else rows


def _uniforms(prompts: Sequence[PreparedPrompt], longest: int) -> Tensor:
    """Numbers (R, longest) in [0, 1): a group's come from its own seed, whatever else is in the batch."""
    numbers = []
    for prompt in prompts:
        sampling = prompt.sampling
        generator = torch.Generator().manual_seed(sampling.seed % 2**63)
        own = torch.rand(sampling.n, sampling.max_new_tokens, generator=generator)
        numbers.append(_padded(own, longest))
    return torch.cat(numbers)
