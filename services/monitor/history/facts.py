"""What the monitor keeps of a scored group: one short record of numbers, from which every series is made.

`correct` is defined per verifier, since V-Triune's rule (accuracy exactly 1) calls hardly any detection answer correct:
detection is correct when every true box has a match of its label at the fixed IoU 0.5 and no box is left over; `iou`
when the IoU is at least 0.5; every other verifier when its accuracy is 1.
"""

import math
import re
from collections.abc import Sequence
from itertools import islice
from typing import Final
from zlib import crc32

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from shared.answers.blocks import last_block
from shared.messages import Completion, Reward, RewardSpec, Scored

REFLECTION_WORDS: Final = (
    "re-check",
    "re-evaluate",
    "re-examine",
    "re-think",
    "recheck",
    "reevaluate",
    "reexamine",
    "reevaluation",
    "rethink",
    "check again",
    "think again",
    "try again",
    "verify",
    "wait",
    "yet",
)
"""V-Triune's fifteen words (paper, section 3.3), found as substrings of the lower-cased answer."""

_DETECTION_AT_50 = ("report_iou_50_label_match_precision", "report_iou_50_label_match_recall")


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One completion. The rewards are None after a verifier error: an error is never a zero.

    `words` counts each reflection word that occurs; `length` is in tokens.
    """

    length: int
    truncated: bool
    final: float | None
    accuracy: float | None
    format: float | None
    correct: bool
    words: dict[str, int]
    parts: dict[str, float]
    said: int = 0
    """A hash of the answer block, to find answers that are alike."""

    @property
    def judged(self) -> bool:
        return self.final is not None


class GroupFacts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One group. Times are in seconds; a wait that was not stamped is 0."""

    verifier: str
    answers: list[Answer]
    prompt_length: int
    oldest_version: int
    queue_s: float  # published → generation begun
    generate_s: float
    transit_s: float  # generated → scoring begun
    score_s: float
    truth: int = 0
    """A hash of the ground truth."""
    weights: dict[str, float] = {}
    """Part of the reward → its weight in it: `accuracy` and `format`, of a composite its members for the former."""


_STEMS: Final = ("check", "evaluat", "examine", "think", "again", "verify", "wait", "yet")
"""Each word holds one of these; a text without a stem is not searched for its words."""
_BY_STEM: Final = {
    stem: [word for word in REFLECTION_WORDS if next(s for s in _STEMS if s in word) == stem] for stem in _STEMS
}
_ANY_WORD = "|".join(re.escape(word) for word in REFLECTION_WORDS)


def reflects(texts: Sequence[str]) -> list[bool]:
    """Whether each text holds any reflection word; one pass for all, where counting takes fifteen."""
    return pc.match_substring_regex(pa.array(texts, pa.string()), _ANY_WORD, ignore_case=True).to_pylist()


def count_words(text: str) -> dict[str, int]:
    """How often each reflection word occurs in `text`, as V-Triune counts: also inside other words."""
    lower = text.lower()
    words = [word for stem, words in _BY_STEM.items() if stem in lower for word in words]
    return {word: count for word in words if (count := lower.count(word))}


def is_correct(verifier: str, reward: Reward) -> bool:
    """Whether the answer counts as correct; never after a verifier error."""
    if not reward.ok:
        return False
    if verifier == "detection":
        at_50 = [_part(reward, name) for name in _DETECTION_AT_50]
        return all(value == 1.0 for value in at_50)
    if verifier == "iou":
        return max(_part(reward, "iou"), reward.accuracy) >= 0.5
    return reward.accuracy == 1.0


def facts_of(groups: Sequence[Scored]) -> list[GroupFacts]:
    """The facts of scored groups, in their order."""
    found = iter(reflects([completion.text for scored in groups for completion in scored.group.completions]))
    return [_group_facts(scored, list(islice(found, len(scored.rewards)))) for scored in groups]


def _group_facts(scored: Scored, reflecting: Sequence[bool]) -> GroupFacts:
    group, prompt = scored.group, scored.prompt
    verifier = prompt.reward.verifier
    published_at = prompt.published_at or group.started_at
    pairs = zip(group.completions, scored.rewards, reflecting, strict=True)
    return GroupFacts(
        verifier=verifier,
        answers=[_answer(verifier, *pair) for pair in pairs],
        prompt_length=len(group.prompt_ids) // 4,
        oldest_version=scored.oldest_version,
        queue_s=max(0.0, group.started_at - published_at),
        generate_s=max(0.0, group.finished_at - group.started_at),
        transit_s=max(0.0, scored.started_at - group.finished_at),
        score_s=max(0.0, scored.finished_at - scored.started_at),
        truth=said(prompt.reward.ground_truth),
        weights=weights_of(prompt.reward),
    )


def said(text: str) -> int:
    """A hash of what `text` answers, white space and case aside: its last answer block, else from its last box on.

    Cheap rather than exact: it is taken of every completion, and 0 stands for no answer at all.
    """
    block = last_block(text) if "answer>" in text else None
    if block is None:
        box = text.rfind("\\boxed")
        block = text[box:] if box >= 0 else ""
    return crc32("".join(block.split()).lower().encode(errors="replace")) if block else 0


def weights_of(spec: RewardSpec) -> dict[str, float]:
    """What each part of a reward weighs in it; they sum to 1. Empty where they make no sense."""
    total = spec.accuracy_ratio + spec.format_ratio
    if not total > 0:
        return {}
    weights = {"accuracy": spec.accuracy_ratio / total, "format": spec.format_ratio / total}
    members = spec.params.get("verifiers") if spec.verifier == "composite" else None
    named = {m["name"]: float(m.get("weight", 1.0)) for m in members} if isinstance(members, list) else {}
    share = weights["accuracy"] / sum(named.values()) if named else 0.0
    return weights | {name: share * weight for name, weight in named.items()}


def _answer(verifier: str, completion: Completion, reward: Reward, reflects: bool) -> Answer:
    ok = reward.ok
    return Answer(
        length=completion.num_tokens,
        truncated=completion.finish == "length",
        final=reward.final if ok else None,
        accuracy=reward.accuracy if ok else None,
        format=reward.format if ok else None,
        correct=is_correct(verifier, reward),
        words=count_words(completion.text) if reflects else {},
        parts={_plain(name): value for name, value in reward.parts.items() if math.isfinite(value)} if ok else {},
        said=said(completion.text),
    )


def _plain(name: str) -> str:
    return name.removesuffix("_reward")


def _part(reward: Reward, name: str) -> float:
    return reward.parts.get(name, reward.parts.get(f"{name}_reward", 0.0))
