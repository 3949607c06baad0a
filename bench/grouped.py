"""The update with each prompt once, by PyPI's `prefix-grouper` (Liu et al. 2025, arXiv:2506.05433): the field's way.

transformers' own model, one row a group: its prompt, then all of its responses. Attention is computed in the package's
two parts; masks and positions are made once, not in each layer, and logits for response tokens alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from prefix_grouper import PrefixGrouper
from torch import Tensor
from transformers import AttentionInterface

from bench.side import Side
from services.learner.algorithms.losses import ppo_clip
from services.learner.algorithms.tokens import Tokens
from services.learner.attention.batch import Ready
from services.learner.intake.pixels import PixelCache
from shared.jobs.spec import JobSpec
from shared.models.hf.forward import image_arguments

NAME = "prefix-grouper"


class Grouped(Side):
    """See `bench.learner.Plain`, whose update this computes without the repeated prompts."""

    def __init__(self, spec: JobSpec, groups: Sequence[Ready], pixels: PixelCache) -> None:
        super().__init__(spec)
        AttentionInterface.register(NAME, self._attention)
        self.model.model.language_model.config._attn_implementation = NAME
        lengths = [[len(group.prompt_ids), *(len(row.token_ids) for row in group.responses)] for group in groups]
        self.grouper = PrefixGrouper(lengths)
        self.masks = _masks(self.grouper)
        self.inputs = _inputs(groups, pixels, self.model.config.image_token_id)
        rows = [row for group in groups for row in group.responses]
        self.targets = torch.cat([torch.from_numpy(row.token_ids) for row in rows])
        self.advantages = torch.cat([torch.full((len(row.token_ids),), row.advantage) for row in rows])
        self.lengths = torch.tensor([len(row.token_ids) for row in rows])

    def _attention(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        def attend(q: Tensor, k: Tensor, v: Tensor, known: Tensor) -> Tensor:
            is_prefix = q.shape[2] == k.shape[2]
            chosen = self.masks["prefix" if is_prefix else "suffix"]
            found = F.scaled_dot_product_attention(
                q, k, v, chosen, is_causal=chosen is None, scale=scaling, enable_gqa=True
            )
            return found.transpose(1, 2)

        return self.grouper.forward(attend, query, key, value), None

    def log_probs(self) -> Tensor:
        """Of every response token, in order."""
        hidden = self.model.model(**self.inputs, use_cache=False).last_hidden_state
        _, _, suffix, known = self.grouper.split_output(hidden, include_prefix_last=1)
        # The prompt's last place and all but a response's last one predict it.
        logits = self.model.lm_head(suffix[:, :-1][known[:, 1:]])
        return logits.float().log_softmax(-1).gather(-1, self.targets[:, None])[:, 0]

    def update(self) -> None:
        """Forward, loss, backward, clip and AdamW."""
        log_probs = self.log_probs()
        before = log_probs.detach()
        losses, _ = ppo_clip.loss(Tokens(log_probs, before, before, self.advantages, self.lengths), self.settings)
        losses.mean().backward()
        self.apply()


def _masks(grouper: PrefixGrouper) -> dict[str, Tensor | None]:
    """What may be attended to, (rows, 1, Q, K); None: plain causal attention."""
    prefix, suffix = grouper.prefix_attn_mask, grouper.suffix_attn_mask
    length, whole = prefix.shape[1], suffix.shape[1]
    causal = torch.ones(whole, whole, dtype=torch.bool).tril()
    seen = causal[None, None, length:] & suffix[:, None, None, :]
    if bool(prefix.all()):
        return {"prefix": None, "suffix": seen}
    return {"prefix": (causal[:length, :length] & prefix[:, None, None, :]), "suffix": seen}


def _inputs(groups: Sequence[Ready], pixels: PixelCache, image_token: int) -> dict[str, Any]:
    """The model's arguments, rows padded to the longest."""
    rows = [
        torch.cat([torch.from_numpy(group.prompt_ids), *(torch.from_numpy(row.token_ids) for row in group.responses)])
        for group in groups
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    positions = torch.zeros(3, *ids.shape, dtype=torch.long)
    for index, group in enumerate(groups):
        own = [torch.from_numpy(group.positions)]
        own += [
            torch.arange(group.next_position, group.next_position + len(row.token_ids)).expand(3, -1)
            for row in group.responses
        ]
        whole = torch.cat(own, dim=1)
        positions[:, index, : whole.shape[1]] = whole
    images = [pixels.get(group.images[0]) for group in groups]
    return {
        "input_ids": ids,
        "attention_mask": None,
        "position_ids": positions,
        "mm_token_type_ids": (ids == image_token).long(),
        **image_arguments(pixels.inputs, images, torch.device("cpu")),
    }
