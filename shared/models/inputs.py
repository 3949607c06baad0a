"""A model's tokenizer and image processor, used as its family says: prompts and images are prepared here alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import blake3
import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from shared.errors import BadSample
from shared.messages import IMAGE_MARK, ChatTurn
from shared.models.family import Family, Parts, PreparedImage
from shared.models.tokens import banned_token_ids, end_token_ids, ids_of_names, marked_ids
from shared.samples.images import decode_image, scaled_size

_DATA_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError, TemplateError)
"""What a tokenizer, a chat template or an image processor raises for text or pixels that it did not expect."""


@dataclass(frozen=True)
class PixelLimits:
    """Pixels of an image at least and at most, from the job file; an image outside is scaled first."""

    least: int = 0
    most: int = 2048 * 2048


ANY_SIZE = PixelLimits()


@dataclass(frozen=True, eq=False)
class PreparedPrompt:
    """A conversation as the model sees it.

    `ids` int32 (P,) with every image's placeholders, the input of the model; `logical_ids` with one placeholder an
    image, what an inference server takes beside the images.
    """

    ids: NDArray[np.int32]
    logical_ids: list[int]
    images: tuple[PreparedImage, ...]

    @property
    def grids(self) -> list[tuple[int, int, int]]:
        """One (t, h, w) in patches an image."""
        return [image.grid for image in self.images]


class Kept(Protocol):
    """Prepared images that other processes of this host have made, by the name of the encoded one."""

    def get(self, name: str) -> PreparedImage | None: ...
    def put(self, name: str, image: PreparedImage) -> None: ...


class Inputs:
    """What a job's model takes and gives: prompts, images, end tokens, banned tokens. Without weights."""

    def __init__(
        self,
        family: Family,
        parts: Parts,
        generation_config: Any,
        *,
        pixels: PixelLimits = ANY_SIZE,
        banned_tokens: Sequence[str] = (),
        kept: Kept | None = None,
    ) -> None:
        """`banned_tokens`: texts of more tokens that may not be sampled; raises BadJob when one is no token.

        `kept`: of this model and these bounds; None: every image is prepared here.
        """
        self.family, self.parts, self.pixels = family, parts, pixels
        self._kept = kept
        config, tokenizer = parts.config, parts.tokenizer
        self.tokenizer = tokenizer
        self.vocab_size = int(config.get_text_config().vocab_size)
        self.image_token_id = int(config.image_token_id)
        self.ends = end_token_ids(generation_config.eos_token_id, tokenizer)
        more = set(ids_of_names(tokenizer, banned_tokens)) - set(self.ends)
        own = banned_token_ids(
            tokenizer,
            vocab_size=self.vocab_size,
            placeholders=[self.image_token_id, getattr(config, "video_token_id", None)],
            marks=(*family.image_marks, *family.turn_marks),
            ends=self.ends,
        )
        self.banned = sorted({*own, *more})
        self._typed = sorted(marked_ids(tokenizer, family.image_marks).values())
        self._image_text = lru_cache(maxsize=4096)(self._make_image_text)

    @property
    def patch_size(self) -> int:
        return self.parts.patch_size

    def image_key(self, digest: str, *, alone: bool) -> str:
        """Names the prepared image of an encoded one: its digest, and whether it is its prompt's only image if that
        matters to the family.
        """
        return f"{digest}/among" if self.family.alone_differs and not alone else digest

    def image(self, data: bytes, *, alone: bool) -> PreparedImage:
        """The encoded image in `data`, scaled to the job's bounds and processed; raises BadSample."""
        if self._kept is None:
            return self._prepared(data, alone)
        name = self.image_key(blake3.blake3(data).hexdigest(), alone=alone)
        found = self._kept.get(name)
        if found is None:
            found = self._prepared(data, alone)
            self._kept.put(name, found)
        return found

    def _prepared(self, data: bytes, alone: bool) -> PreparedImage:
        picture = decode_image(data, min_pixels=self.pixels.least, max_pixels=self.pixels.most)
        with _refusing(*picture.size):
            return self.family.prepare(picture, self.parts, alone=alone)

    def prompt(self, turns: Sequence[ChatTurn], images: Sequence[PreparedImage]) -> PreparedPrompt:
        """`turns` by the model's chat template, each placeholder replaced by its image's tokens.

        Raises BadSample: a text holds a mark that only an image may put there, or the placeholders are not one an
        image; so does whatever else the model's own code raises for this text, since it would raise it everywhere.
        """
        with _preparing():
            text, expanded = self._texts(turns, [image.text for image in images])
            ids = np.asarray(self._tokens(expanded), dtype=np.int32)
            self.check_placeholders(ids, images)
            return PreparedPrompt(ids, self._tokens(text), tuple(images))

    def count(self, turns: Sequence[ChatTurn], sizes: Sequence[tuple[int, int]]) -> int:
        """Tokens of the prompt that `turns` make with images of these sizes: width and height in pixels, upright.

        No pixel is needed. Raises BadSample as `image` and `prompt` do.
        """
        texts = [self._image_text(*size, len(sizes) == 1) for size in sizes]
        with _preparing():
            return len(self._tokens(self._texts(turns, texts)[1]))

    def _make_image_text(self, width: int, height: int, alone: bool) -> str:
        size = scaled_size(width, height, min_pixels=self.pixels.least, max_pixels=self.pixels.most)
        with _refusing(*size):
            return self.family.text(*size, self.parts, alone=alone)

    def _texts(self, turns: Sequence[ChatTurn], images: Sequence[str]) -> tuple[str, str]:
        """`turns` as the chat template writes them, and with what `images` put into the prompt."""
        wanted = [template_turn(turn) for turn in turns]
        self._refuse_typed_marks(wanted)
        text = str(self.tokenizer.apply_chat_template(wanted, add_generation_prompt=True, tokenize=False))
        pieces = text.split(self.family.placeholder(self.parts))
        if len(pieces) - 1 != len(images):
            raise BadSample(
                f"the prompt has {len(pieces) - 1} image placeholders for {len(images)} images; expected one each"
            )
        return text, pieces[0] + "".join(image + piece for image, piece in zip(images, pieces[1:], strict=True))

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _refuse_typed_marks(self, turns: Sequence[dict[str, Any]]) -> None:
        for turn in turns:
            content = turn["content"]
            texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
            for mark in self._typed:
                if any(mark in text for text in texts):
                    raise BadSample(f"a {turn['role']} turn holds {mark!r}, which only an image may put into a prompt")

    def check_placeholders(self, ids: NDArray[np.integer], images: Sequence[PreparedImage]) -> None:
        """Raises BadSample unless `ids` hold the image token once a feature of `images`."""
        found, expected = int(np.sum(ids == self.image_token_id)), sum(image.tokens for image in images)
        if found != expected:
            raise BadSample(f"the prompt has {found} image tokens; its {len(images)} images make {expected}")

    def kinds(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """1 where an image token stands, else 0; shaped as `ids`."""
        return (ids == self.image_token_id).astype(np.int64)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a completion, without the tokens that end it; special tokens that it answers with stay."""
        return str(self.tokenizer.decode([token for token in ids if token not in self.ends], skip_special_tokens=False))


def check_length(tokens: int, most: int) -> None:
    """Raises BadSample for a prompt of more tokens than the job's `most`."""
    if tokens > most:
        raise BadSample(f"the prompt has {tokens} tokens, images included; data.max_prompt_tokens allows {most}")


@contextmanager
def _refusing(width: int, height: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise BadSample(f"the image processor refuses an image of {width}x{height} pixels: {error}") from error


@contextmanager
def _preparing() -> Iterator[None]:
    try:
        yield
    except _DATA_ERRORS as error:
        raise BadSample(f"the prompt can't be prepared: {type(error).__name__}: {error}") from error


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
