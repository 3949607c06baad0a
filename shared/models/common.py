"""What sampler and learner must treat alike about a vision-language model, as pure functions without torch.

Both services call these, so that the log-probs of one are log-probs of the same distribution as those of the other.
The objects that come in (tokenizer, configurations) are Hugging Face's, taken for what they have, not for their class.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

TEXT, IMAGE, VIDEO = 0, 1, 2
"""Kinds of a token in `token_types`, as transformers' `mm_token_type_ids` numbers them."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is read here."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...
    @property
    def all_special_ids(self) -> Sequence[int]: ...
    @property
    def eos_token_id(self) -> int | None: ...
    def __len__(self) -> int: ...


def banned_token_ids(
    *, vocab_size: int, tokenizer_size: int, special_ids: Iterable[int], end_ids: Iterable[int]
) -> list[int]:
    """Ids that no completion may hold, rising: special tokens but the end tokens, and padded rows of the vocabulary.

    A sampled image placeholder breaks the match of placeholders and image features when the learner computes the
    sequence again (V-Triune, section 5.2: it replaces them afterwards; here they have probability 0 in the sampler and
    in the learner). `vocab_size` is the number of logits, `tokenizer_size` the number of tokens that the tokenizer has.
    """
    banned = set(special_ids) | set(range(tokenizer_size, vocab_size))
    return sorted(token for token in banned - set(end_ids) if 0 <= token < vocab_size)


def special_token_ids(tokenizer: Tokenizer) -> set[int]:
    """Ids of all special tokens (turn marks, placeholders, padding); tokens that are only added are not special."""
    added = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def end_token_ids(generation_eos: int | Sequence[int] | None, tokenizer: Tokenizer) -> list[int]:
    """Ids that end a completion: those of the generation configuration, and the tokenizer's own."""
    ends = {generation_eos} if isinstance(generation_eos, int) else set(generation_eos or ())
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if not ends:
        raise ValueError("the model names no end token, neither in generation_config.json nor in its tokenizer")
    return sorted(ends)


def banned_for_model(config: Any, generation_config: Any, tokenizer: Tokenizer) -> list[int]:
    """`banned_token_ids` of a loaded model: its configuration, its generation configuration and its tokenizer."""
    placeholders = {config.image_token_id, config.video_token_id}
    return banned_token_ids(
        vocab_size=config.get_text_config().vocab_size,
        tokenizer_size=len(tokenizer),
        special_ids=special_token_ids(tokenizer) | placeholders,
        end_ids=end_token_ids(generation_config.eos_token_id, tokenizer),
    )


def token_types(ids: NDArray[np.integer], *, image_token_id: int, video_token_id: int) -> NDArray[np.int64]:
    """TEXT, IMAGE or VIDEO for each of `ids` (any shape).

    Without these transformers 5 falls back to one-dimensional positions for Qwen2.5-VL, silently.
    """
    kinds = np.where(ids == image_token_id, IMAGE, TEXT)
    return np.where(ids == video_token_id, VIDEO, kinds).astype(np.int64)


def image_token_count(grid_thw: Sequence[int], merge_size: int) -> int:
    """Placeholder tokens of one image whose grid is (t, h, w) patches, merged `merge_size` x `merge_size`."""
    t, h, w = grid_thw
    return t * h * w // merge_size**2
