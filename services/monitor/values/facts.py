"""What every series of a set of groups is made of, by column: numbers alone, without texts and tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from services.monitor.values.answers import Answers, answers_of
from services.monitor.values.words import words_of
from shared.answers.blocks import last_block
from shared.messages import Reward, RewardSpec, Scored


@dataclass(frozen=True)
class Facts:
    """N groups and their A answers, one after the other.

    Of each group, (N,): `sizes` answers; times in seconds, a wait that was not stamped is 0; `truths`, hashes of the
    ground truths; `weights`, part of the reward → its weight in it; `staleness` in versions, NaN of a held-out group.
    Of each answer, (A,): `lengths` in tokens, `cut` at the limit; `final`, `accuracy` and `format` are NaN where no
    verdict was `judged`; `words` counts each reflection word that occurs; `said`, a hash of the answer block.
    """

    sources: list[str]
    tasks: list[str]
    verifiers: list[str]
    weights: list[Mapping[str, float]]
    sizes: NDArray[np.int64]
    staleness: NDArray[np.float64]
    prompt_lengths: NDArray[np.int64]
    queue_s: NDArray[np.float64]  # published → generation begun
    generate_s: NDArray[np.float64]
    transit_s: NDArray[np.float64]  # generated → scoring begun
    score_s: NDArray[np.float64]
    truths: NDArray[np.int64]
    lengths: NDArray[np.int32]
    cut: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    final: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    format: NDArray[np.float64]
    correct: NDArray[np.bool_]
    said: NDArray[np.int64]
    words: list[Mapping[str, int]]
    parts: list[Mapping[str, float]]


def join_facts(some: Sequence[Facts]) -> Facts:
    """All groups of `some`, in their order."""
    if len(some) == 1:
        return some[0]
    some = some or [facts_of(answers_of([]))]
    return Facts(**{column.name: _joined([getattr(one, column.name) for one in some]) for column in fields(Facts)})


def _joined(columns: list[Any]) -> Any:
    return np.concatenate(columns) if isinstance(columns[0], np.ndarray) else list(chain.from_iterable(columns))


def facts_of(answers: Answers, staleness: Sequence[int | None] | None = None) -> Facts:
    """The facts of scored groups, in their order; `staleness` of each (None: of a held-out group)."""
    groups = answers.groups
    specs = [scored.prompt.reward for scored in groups]
    published, started, finished, judging, judged = _stamps(groups)
    return Facts(
        sources=[scored.prompt.source for scored in groups],
        tasks=[scored.prompt.task for scored in groups],
        verifiers=[spec.verifier for spec in specs],
        weights=[weights_of(spec) for spec in specs],
        sizes=answers.sizes,
        staleness=np.array(staleness or [None] * len(groups), np.float64),
        prompt_lengths=np.array([len(scored.group.prompt_ids) // 4 for scored in groups], np.int64),
        queue_s=np.maximum(0.0, started - published),
        generate_s=np.maximum(0.0, finished - started),
        transit_s=np.maximum(0.0, judging - finished),
        score_s=np.maximum(0.0, judged - judging),
        truths=np.array([said(spec.ground_truth) for spec in specs], np.int64),
        lengths=answers.tokens,
        cut=np.array([completion.finish == "length" for completion in answers.completions], np.bool_),
        judged=answers.ok,
        final=answers.final,
        accuracy=answers.accuracy,
        format=answers.format,
        correct=answers.correct,
        said=np.array([said(completion.text) for completion in answers.completions], np.int64),
        words=words_of(answers.texts),
        parts=[_parts(reward) for reward in answers.rewards],
    )


def _stamps(groups: Sequence[Scored]) -> NDArray[np.float64]:
    """(5, N): published, generation begun and ended, scoring begun and ended."""
    stamps = [
        (
            scored.prompt.published_at or scored.group.started_at,
            scored.group.started_at,
            scored.group.finished_at,
            scored.started_at,
            scored.finished_at,
        )
        for scored in groups
    ]
    return np.array(stamps, np.float64).reshape(-1, 5).T


_NONE: Final[Mapping[str, float]] = {}


def said(text: str) -> int:
    """A hash of what `text` answers, white space and case aside: its last answer block, else from its last box on.

    Cheap rather than exact: it is taken of every completion, and 0 stands for no answer at all.
    """
    block = last_block(text) if ">" in text and "answer>" in text else None
    if block is None:
        box = text.rfind("\\boxed")
        block = text[box:] if box >= 0 else ""
    return crc32("".join(block.split()).lower().encode(errors="replace")) if block else 0


def weights_of(spec: RewardSpec) -> dict[str, float]:
    """What each part of a reward weighs in it, `accuracy` and `format`, of a composite its members for the former.

    They sum to 1; empty where they make no sense.
    """
    total = spec.accuracy_ratio + spec.format_ratio
    if not total > 0:
        return {}
    weights = {"accuracy": spec.accuracy_ratio / total, "format": spec.format_ratio / total}
    members = spec.params.get("verifiers") if spec.verifier == "composite" else None
    named = {m["name"]: float(m.get("weight", 1.0)) for m in members} if isinstance(members, list) else {}
    share = weights["accuracy"] / sum(named.values()) if named else 0.0
    return weights | {name: share * weight for name, weight in named.items()}


def _parts(reward: Reward) -> Mapping[str, float]:
    if not reward.ok or not reward.parts:
        return _NONE
    return {name.removesuffix("_reward"): value for name, value in reward.parts.items() if math.isfinite(value)}
