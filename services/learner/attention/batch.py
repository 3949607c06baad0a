"""Groups as arrays: what a step keeps of a scored group, and how groups are cut into micro-batches.

Letters: P prompt tokens, T tokens of one response, n completions of a group. All of it is numpy.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.messages import Scored

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ReadyImage:
    """An image of a prompt: encoded bytes, and the name of what its family makes of them (`Inputs.image_key`).

    `alone`: its prompt has no other image.
    """

    name: str
    data: bytes
    alone: bool


@dataclass(frozen=True, eq=False)
class Response:
    """A completion that may be trained on: `token_ids` int64 (T,), `log_probs` float32 (T,) of the rollout.

    `teacher` float32 (T,) of a job with distillation, NaN where its teacher has none; else (0,).
    """

    index: int  # its place among the group's completions
    token_ids: Ints
    log_probs: NDArray[np.float32]
    advantage: float
    teacher: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def num_seen(self) -> int:
        """Tokens that a pass computes: the last one predicts nothing. A lone one stays: no sequence is empty."""
        return max(1, len(self.token_ids) - 1)


@dataclass(frozen=True, eq=False)
class Ready:
    """A scored group, checked and turned into arrays, so that a step only has to compute.

    `prompt_ids` (P,); `positions` (A, P) of every prompt token: mRoPE's temporal, height and width (A = 3), or A = 1;
    `next_position`: where every response starts, on all axes. `advantages` float64 (n,), NaN for a completion
    without a verdict; `responses` are the others, empty ones left out. Images in the order of their placeholders.
    """

    scored: Scored
    prompt_ids: Ints
    positions: Ints
    next_position: int
    advantages: NDArray[np.float64]
    responses: tuple[Response, ...]
    images: tuple[ReadyImage, ...]
    droppable: bool = False
    """Whether dynamic sampling may put it aside."""

    @property
    def ordinal(self) -> int:
        return self.scored.prompt.ordinal

    @property
    def num_valid(self) -> int:
        """Completions that have a verdict; 0: the group is void (`unverifiable`)."""
        return int(np.sum(~np.isnan(self.advantages)))

    @property
    def uniform(self) -> bool:
        """True when no completion is better than another one: the group has no gradient."""
        return not np.any(np.nan_to_num(self.advantages))

    @property
    def num_response_tokens(self) -> int:
        return sum(len(response.token_ids) for response in self.responses)


@dataclass(frozen=True, eq=False)
class Part:
    """A group with those of its responses that share a micro-batch; a filler is computed and counts nothing."""

    group: Ready
    responses: tuple[Response, ...]
    is_filler: bool = False

    @property
    def num_tokens(self) -> int:
        return len(self.group.prompt_ids) + sum(len(response.token_ids) for response in self.responses)


def parts_of(groups: Sequence[Ready], tokens_per_batch: int) -> list[Part]:
    """`groups` in parts of at most `tokens_per_batch` tokens: a group that is larger is cut between responses.

    Its prompt is computed once a part. A single response that is larger is a part of its own.
    """
    return [part for group in groups for part in _cut(group, tokens_per_batch)]


def micro_batches(parts: Sequence[Part], tokens_per_batch: int) -> list[list[Part]]:
    """`parts` in micro-batches of at most `tokens_per_batch` tokens, prompts counted once a part.

    Parts of similar prompt length go together (less padding in attention). Nothing here changes the loss.
    """
    batches: list[list[Part]] = []
    filled = 0
    for part in sorted(parts, key=lambda part: (len(part.group.prompt_ids), part.group.ordinal)):
        if not batches or filled + part.num_tokens > tokens_per_batch:
            batches.append([])
            filled = 0
        batches[-1].append(part)
        filled += part.num_tokens
    return batches


def _cut(group: Ready, tokens_per_batch: int) -> list[Part]:
    room = tokens_per_batch - len(group.prompt_ids)
    cuts: list[list[Response]] = []
    filled = 0
    for response in group.responses:
        size = len(response.token_ids)
        if not cuts or filled + size > room:
            cuts.append([])
            filled = 0
        cuts[-1].append(response)
        filled += size
    return [Part(group, tuple(cut)) for cut in cuts]


def mini_batches(groups: Sequence[Ready], updates: int) -> list[Sequence[Ready]]:
    """`groups` in order, cut into at most `updates` runs whose sizes differ by one at most; none is empty.

    Deviation: V-Triune needs the number of groups to be a multiple of its mini-batch; a short last step is cut too.
    """
    bounds = np.linspace(0, len(groups), min(updates, len(groups)) + 1).round().astype(int)
    return [groups[start:end] for start, end in itertools.pairwise(bounds)]


@dataclass(frozen=True, eq=False)
class Block:
    """Sequences of similar length whose attention is computed as one rectangle: R rows, Q queries, K keys.

    `query` (R, Q) and `key` (R, K) are places in the packed row (padding points at place -1). The last Q keys of a row
    are its queries; `context` (R,) says how many of the K − Q keys before them are real: those are right-aligned, so
    that columns count tokens. `prompt` (R,) numbers the prompt that a row is, or follows. `images` (R, K) numbers the
    image a key belongs to (-1: none), for prompts with images.
    """

    query: Ints
    key: Ints
    context: Ints
    prompt: Ints
    images: Ints | None = None

    @property
    def padded_context(self) -> bool:
        """True when some key before the queries is padding, which only a mask can hide."""
        return bool(np.any(self.context != self.key.shape[1] - self.query.shape[1]))


@dataclass(frozen=True, eq=False)
class Packed:
    """A micro-batch as one row of N tokens in which every prompt stands once, followed by all responses.

    A response stands there without its last token, which predicts nothing (`Response.num_seen`).
    `token_ids` (N,), `positions` (A, N). Response tokens, M in all, stand in the order of `parts`: `source` (M,) is
    the place whose hidden state predicts each, `targets` (M,) its id, `advantages` and `rollout_log_probs` (M,).
    `teacher_log_probs` (M,), or (0,) without distillation.
    `blocks` hold the attention; `restore` (N,) is where each token of the row stands among all blocks' queries.
    `image_places` (K,) are the placeholders, `image_order` names the images whose features fill them, in order.
    """

    parts: Sequence[Part]
    token_ids: Ints
    positions: Ints
    source: Ints
    targets: Ints
    advantages: NDArray[np.float32]
    rollout_log_probs: NDArray[np.float32]
    teacher_log_probs: NDArray[np.float32]
    blocks: Sequence[Block]
    restore: Ints
    image_places: Ints
    image_order: Sequence[str]


def pack(parts: Sequence[Part], *, image_token_id: int) -> Packed:
    """One row of all `parts`; see `Packed`."""
    prompts = [part.group.prompt_ids for part in parts]
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in prompts])])
    spans = [np.arange(start, end) for start, end in itertools.pairwise(starts)]
    rows = [(number, part.group, response) for number, part in enumerate(parts) for response in part.responses]
    places, end = [], int(starts[-1])
    for _, _, response in rows:
        places.append(np.arange(end, end + response.num_seen))
        end += response.num_seen
    positions = [part.group.positions for part in parts]
    positions += [_text_positions(group, response.num_seen) for _, group, response in rows]
    ids = np.concatenate(prompts + [response.token_ids[: response.num_seen] for _, _, response in rows])
    image_places = np.flatnonzero(ids[: starts[-1]] == image_token_id)
    blocks = _prompt_blocks(spans, image_runs(image_places, len(ids))) + _response_blocks(
        spans, [(number, place) for (number, _, _), place in zip(rows, places, strict=True)]
    )
    return Packed(
        parts=parts,
        token_ids=ids,
        positions=np.concatenate(positions, axis=1),
        source=np.concatenate(
            [
                np.concatenate([spans[number][-1:], place])[: len(response.token_ids)]
                for (number, _, response), place in zip(rows, places, strict=True)
            ]
        ),
        targets=np.concatenate([response.token_ids for _, _, response in rows]),
        advantages=np.concatenate([np.full(len(row.token_ids), row.advantage, np.float32) for _, _, row in rows]),
        rollout_log_probs=np.concatenate([response.log_probs for _, _, response in rows]),
        teacher_log_probs=np.concatenate([response.teacher for _, _, response in rows]),
        blocks=blocks,
        restore=_restore(blocks, len(ids)),
        image_places=image_places,
        image_order=[image.name for part in parts for image in part.group.images],
    )


def _text_positions(group: Ready, length: int) -> Ints:
    start = group.next_position
    return np.broadcast_to(np.arange(start, start + length), (len(group.positions), length))


def image_runs(places: Ints, length: int) -> Ints:
    """(N,): the number of the run of neighbouring `places` that each place is in, -1 outside."""
    runs = np.full(length, -1, np.int64)
    runs[places] = np.cumsum(np.diff(places, prepend=-2) > 1)
    return runs


SIMILAR = 0.6
"""The shortest sequence of a block is at least this share of its longest one, in its context and in itself."""


def _prompt_blocks(spans: Sequence[Ints], images: Ints) -> list[Block]:
    """`images` (N,) numbers the image of each place, -1 where there is none."""
    blocks = []
    for chosen in _similar([(len(span), 0) for span in spans]):
        query = _right_padded([spans[index] for index in chosen])
        runs = np.where(query >= 0, images[query], -1)
        none = np.zeros(len(chosen), np.int64)
        blocks.append(Block(query, query, none, np.array(chosen), runs if np.any(runs >= 0) else None))
    return blocks


def _response_blocks(spans: Sequence[Ints], rows: Sequence[tuple[int, Ints]]) -> list[Block]:
    """`rows`: for each response the number of its prompt, whose places are in `spans`, and its own places."""
    blocks = []
    for chosen in _similar([(len(place), len(spans[number])) for number, place in rows]):
        numbers = [rows[index][0] for index in chosen]
        contexts = [spans[number] for number in numbers]
        query = _right_padded([rows[index][1] for index in chosen])
        key = np.concatenate([_left_padded(contexts), query], axis=1)
        blocks.append(Block(query, key, np.array([len(context) for context in contexts]), np.array(numbers)))
    return blocks


def _similar(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Indices of sequences of similar `sizes` (own length, context), longest first, order kept among equals.

    A block holds contexts of one step of a ladder whose rungs are a factor `SIMILAR` apart, and within it own lengths
    of the same factor: so padding stays below 40 % of the queries and of the context's keys.
    """

    def rung(context: int) -> int:
        return math.floor(math.log(context) / -math.log(SIMILAR)) if context else 0

    runs: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda index: (-rung(sizes[index][1]), -sizes[index][0])):
        length, context = sizes[index]
        first = sizes[runs[-1][0]] if runs else (0, 0)
        if not runs or rung(context) != rung(first[1]) or length < SIMILAR * first[0]:
            runs.append([])
        runs[-1].append(index)
    return runs


def _right_padded(rows: Sequence[Ints]) -> Ints:
    padded = np.full((len(rows), max(map(len, rows))), -1, np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def _left_padded(rows: Sequence[Ints]) -> Ints:
    return _right_padded([row[::-1] for row in rows])[:, ::-1]


def _restore(blocks: Sequence[Block], num_tokens: int) -> Ints:
    queries = np.concatenate([block.query.ravel() for block in blocks])
    real = np.flatnonzero(queries >= 0)
    restore = np.empty(num_tokens, np.int64)
    restore[queries[real]] = real
    return restore
