"""The golden cases: inputs, and what V-Triune's own server made of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.reward.boxes.thresholds import parse_threshold
from services.reward.http.vtriune import PlainPayload

GOLDEN = Path(__file__).parent.parent / "golden"
# The original takes any word or number that it does not know for `average`. Here a word is refused when the server
# starts, and a number is a threshold.
REFUSED = ("DYNAMIC", "avg", "99")
OWN_THRESHOLD = ("0.52", "1")


@dataclass(frozen=True)
class Case:
    """One line of reward_cases.jsonl."""

    id: str
    threshold: str | float
    payload: PlainPayload
    expected: dict[str, Any]

    @property
    def is_error(self) -> bool:
        return self.expected["error"] is not None

    @property
    def parts(self) -> dict[str, float]:
        base = {f"{name}_reward" for name in ("format", "accuracy", "reflection", "final")}
        rewards = self.expected["rewards"]
        return {name.removesuffix("_reward"): value for name, value in rewards.items() if name not in base}


def cases() -> list[Case]:
    """All golden cases."""
    with (GOLDEN / "reward_cases.jsonl").open() as lines:
        return [_case(json.loads(line)) for line in lines]


def _case(line: dict[str, Any]) -> Case:
    variable = line["env"]["DET_IOU_THRESHOLD"]
    average = variable is None or variable in REFUSED + OWN_THRESHOLD
    raw = line["verifier_parm_raw"]
    payload = PlainPayload(
        response=line["completion"],
        prompt=line["prompt"],
        answer=line["answer"],
        solution=line["ground_truth"],
        data_source=line["data_source"],
        reward_verifier=line["verifier"],
        reward_verifier_parm=json.dumps(line["verifier_parm"]) if raw is None else raw,
        format_ratio=line["format_ratio"],
        accuracy_ratio=line["accuracy_ratio"],
    )
    return Case(line["id"], "average" if average else parse_threshold(variable), payload, line["expected"])
