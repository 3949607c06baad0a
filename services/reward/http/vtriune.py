"""V-Triune's `POST /judge`: its payload, its composition of the answer, and what it makes of an error.

Source of the contract: V-Triune's reward server (MiniMax-AI/One-RL-to-See-Them-All, 39bcf0d). Deviation: what is an
error there, printed and answered with zeros, has the same zeros and an `error` text here.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel

from services.reward.answers.dialect import V_TRIUNE
from services.reward.verdict import Context, Sample, VerifierError
from shared.messages import Reward, RewardSpec

_REQUIRED = ("is_training", "step", "total_steps")
_KNOWN = {*_REQUIRED, "image_path", "image_grid_thw", "verifier_style", "det_verifier_normalized", "det_reward_ratio"}


class JudgePayload(BaseModel):
    """The body as the original declares it; pydantic's coercions and error texts are part of the contract."""

    response: str
    prompt: str
    answer: str
    solution: str
    data_source: str
    reward_verifier: str
    reward_verifier_parm: str
    format_ratio: float | None = None
    accuracy_ratio: float | None = None


class PlainPayload(msgspec.Struct, frozen=True):
    """The same for a body that needs no coercion: what trainers send, read ten times as fast."""

    response: str
    prompt: str
    answer: str
    solution: str
    data_source: str
    reward_verifier: str
    reward_verifier_parm: str
    format_ratio: float | None = None
    accuracy_ratio: float | None = None


def to_sample(payload: JudgePayload | PlainPayload, iou_threshold: str | float, deadline_s: float) -> Sample:
    """The sample of a request; raises VerifierError where the original raises while it makes its verifier."""
    parm = _parm(payload.reward_verifier_parm)
    spec = RewardSpec(
        verifier=payload.reward_verifier,
        answer=payload.answer,
        ground_truth=payload.solution,
        accuracy_ratio=1.0 if payload.accuracy_ratio is None else payload.accuracy_ratio,
        format_ratio=0.1 if payload.format_ratio is None else payload.format_ratio,
        params=parm,
        options={"iou_threshold": iou_threshold, "dialect": V_TRIUNE},
    )
    pixels = payload.reward_verifier == "detection" and parm.get("det_verifier_normalized")
    context = Context(
        resized=grid_sizes(parm.get("image_grid_thw")) if pixels else [],
        progress=progress(parm["step"], parm["total_steps"]),
    )
    return Sample(completion=payload.response, spec=spec, context=context, deadline_s=deadline_s, checked=False)


def is_original(params: Mapping[str, object]) -> bool:
    """Whether `params` are what V-Triune's trainer sends: its verifiers' constructor arguments."""
    return "is_training" in params


def _parm(text: str) -> dict[str, Any]:
    try:
        parm = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VerifierError(f"reward_verifier_parm is no JSON: {error}") from error
    if not isinstance(parm, dict):
        raise VerifierError(f"reward_verifier_parm is a {type(parm).__name__}; expected an object")
    missing = [name for name in _REQUIRED if name not in parm]
    if missing:
        raise VerifierError(f"reward_verifier_parm has no {', '.join(missing)}")
    unknown = sorted(parm.keys() - _KNOWN)
    if unknown:
        raise VerifierError(f"reward_verifier_parm has {', '.join(unknown)}; known are {', '.join(sorted(_KNOWN))}")
    return parm


def progress(step: object, total_steps: object) -> float:
    """Training progress, step / total_steps; either may be a numeric string. Raises VerifierError."""
    try:
        return float(step) / float(total_steps)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise VerifierError(
            f"step is {step!r} and total_steps is {total_steps!r}; expected numbers, the second not 0"
        ) from None


def grid_sizes(grid: object) -> list[tuple[float, float]]:
    """(width, height) in pixels of the first image of a V-Triune `image_grid_thw`: rows of (t, height, width).

    None and an empty grid have no image; one of another shape has a size of NaN, which is an error where it is used.
    """
    if not grid:
        return []
    first = grid[0] if isinstance(grid, list) else None
    if not isinstance(first, list) or len(first) < 3 or not all(isinstance(side, (int, float)) for side in first[1:3]):
        return [(math.nan, math.nan)]
    return [(float(first[2]), float(first[1]))]


def answer(reward: Reward) -> dict[str, object]:
    """The body of the response: every number under its name with `_reward`, and the error where there is one."""
    rewards = {
        "format_reward": reward.format,
        "accuracy_reward": reward.accuracy,
        "reflection_reward": 0.0,
        "final_reward": reward.final,
    }
    rewards |= {f"{name}_reward": value for name, value in reward.parts.items()}
    return {"rewards": rewards} if reward.ok else {"rewards": rewards, "error": reward.error}
