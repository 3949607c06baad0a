"""Which tokens end a completion, and which ones no completion may hold, as pure functions without torch.

Tokenizers that come in are Hugging Face's, taken for what they have, not for their class.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from shared.errors import BadJob


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is read here."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def pad_token_id(self) -> int | None: ...
    def __len__(self) -> int: ...


def marked_ids(tokenizer: Tokenizer, marks: Iterable[str]) -> dict[int, str]:
    """Id → text of the added tokens that are named by `marks`, in which `*` stands for any characters."""
    patterns = [re.compile(re.escape(mark).replace(r"\*", ".*"), re.DOTALL) for mark in marks]
    texts = {number: str(token.content) for number, token in tokenizer.added_tokens_decoder.items()}
    return {number: text for number, text in texts.items() if any(pattern.fullmatch(text) for pattern in patterns)}


def end_token_ids(generation_eos: int | Sequence[int] | None, tokenizer: Tokenizer) -> list[int]:
    """Ids that end a completion: those of the generation configuration, and the tokenizer's own."""
    ends = {generation_eos} if isinstance(generation_eos, int) else set(generation_eos or ())
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if not ends:
        raise ValueError("the model names no end token, neither in generation_config.json nor in its tokenizer")
    return sorted(ends)


def banned_token_ids(
    tokenizer: Tokenizer, *, vocab_size: int, placeholders: Iterable[int | None], marks: Iterable[str],
    ends: Iterable[int],
) -> list[int]:  # fmt: skip
    """Ids that no completion may hold, rising: placeholders, marks of images and turns, padding, unused rows.

    A sampled image placeholder breaks the match of placeholders and image features when the learner computes the
    sequence again (V-Triune, section 5.2: it replaces them afterwards; here they have probability 0 in the sampler and
    in the learner). Other special tokens (boxes, thoughts) are what a family answers with, and stay. `vocab_size` is
    the number of logits; rows past the tokenizer's are padding.
    """
    banned = {token for token in (*placeholders, tokenizer.pad_token_id) if token is not None}
    banned |= marked_ids(tokenizer, marks).keys()
    banned |= set(range(len(tokenizer), vocab_size))
    return sorted(token for token in banned - set(ends) if 0 <= token < vocab_size)


def ids_of_names(tokenizer: Any, names: Sequence[str]) -> list[int]:
    """The id of each token in `names`; raises BadJob for a text that is not one token of the vocabulary."""
    vocabulary = tokenizer.get_vocab()
    if wrong := [name for name in names if name not in vocabulary]:
        raise BadJob([f"sampling.banned_tokens holds {name!r}; the model has no token of that text" for name in wrong])
    return [vocabulary[name] for name in names]
