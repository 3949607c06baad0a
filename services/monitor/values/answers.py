"""Scored groups by column: their completions one after the other, each column made in one pass.

`correct` is defined per verifier, since V-Triune's rule (accuracy exactly 1) calls hardly any detection answer correct:
detection is correct when every true box has a match of its label at the fixed IoU 0.5 and no box is left over; `iou`
when the IoU is at least 0.5; every other verifier when its accuracy is 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shared.messages import Completion, Reward, Scored

_DETECTION_AT_50: Final = ("report_iou_50_label_match_precision", "report_iou_50_label_match_recall")


@dataclass(frozen=True)
class Answers:
    """The A completions of N groups. After a verifier error (not `ok`) the rewards are NaN: an error is never a zero.

    `sizes` (N,) completions a group; all other columns (A,): `tokens` int32, the rest float64 and bool.
    """

    groups: Sequence[Scored]
    completions: Sequence[Completion]
    rewards: Sequence[Reward]
    sizes: NDArray[np.int64]
    texts: pa.StringArray
    tokens: NDArray[np.int32]
    ok: NDArray[np.bool_]
    final: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    format: NDArray[np.float64]
    correct: NDArray[np.bool_]


def answers_of(groups: Sequence[Scored]) -> Answers:
    """The columns of `groups`, in their order."""
    completions = [completion for scored in groups for completion in scored.group.completions]
    rewards = [reward for scored in groups for reward in scored.rewards]
    sizes = np.fromiter((len(scored.rewards) for scored in groups), np.int64, len(groups))
    lengths = np.fromiter((len(completion.token_ids) for completion in completions), np.int32, len(completions))
    ok = np.fromiter((reward.ok for reward in rewards), np.bool_, len(rewards))

    def told(values: list[float]) -> NDArray[np.float64]:
        return np.where(ok, np.array(values, np.float64), np.nan)

    accuracy = told([reward.accuracy for reward in rewards])
    return Answers(
        groups=groups,
        completions=completions,
        rewards=rewards,
        sizes=sizes,
        texts=pa.array([completion.text for completion in completions], pa.string()),
        tokens=lengths // 4,
        ok=ok,
        final=told([reward.final for reward in rewards]),
        accuracy=accuracy,
        format=told([reward.format for reward in rewards]),
        correct=_correct(groups, rewards, sizes, accuracy),
    )


def _correct(
    groups: Sequence[Scored], rewards: Sequence[Reward], sizes: NDArray[np.int64], accuracy: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether each answer counts as correct; never after a verifier error."""
    correct = accuracy == 1.0
    for scored, end, size in zip(groups, np.cumsum(sizes).tolist(), sizes.tolist(), strict=True):
        judge = _OWN.get(scored.prompt.reward.verifier)
        if judge is not None:
            correct[end - size : end] = [reward.ok and judge(reward) for reward in rewards[end - size : end]]
    return correct


def _detects(reward: Reward) -> bool:
    return all(_part(reward, name) == 1.0 for name in _DETECTION_AT_50)


def _overlaps(reward: Reward) -> bool:
    return max(_part(reward, "iou"), reward.accuracy) >= 0.5


_OWN: Final[dict[str, Callable[[Reward], bool]]] = {"detection": _detects, "iou": _overlaps}
"""Verifiers whose accuracy does not say what is correct."""


def _part(reward: Reward, name: str) -> float:
    return reward.parts.get(name, reward.parts.get(f"{name}_reward", 0.0))
