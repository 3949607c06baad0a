"""Thousands of hostile completions through every verifier: no hang, no crash, memory flat.

`TRIUNE_HOSTILE=10000 pytest -rP tests/reward/test_hostile_crowd.py` sends as many, and shows what they took; `make
test` has time for fewer.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import psutil
import pytest

from services.reward.endpoints.judge import Endpoint, Reply
from services.reward.metrics import instruments
from services.reward.outside.asking import Asking
from services.reward.outside.running import Running
from services.reward.scoring import Scorer
from services.reward.verdict import Sample
from services.reward.workers.pool import Pool
from shared.messages import RewardSpec
from shared.samples.verifiers import VERIFIERS
from tests.reward.hostile import completions

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = int(os.environ.get("TRIUNE_HOSTILE", "100"))
PROGRAMS = COUNT if "TRIUNE_HOSTILE" in os.environ else 20  # each starts a process
DEADLINE_S = 5.0
TOGETHER = 200
FLAT = 0.05 if "TRIUNE_HOSTILE" in os.environ else 1.0
"""The share that a process may grow by, its last third against its first; few completions are all warming up."""
_BOXES = "<answer>\n[{'bbox_2d': [1, 2, 30, 40], 'label': 'a'}]\n</answer>"
_TABLE = "| a | b |\n| c | 1 |"
TRUTHS = {
    **dict.fromkeys(("detection", "iou"), _BOXES),
    **dict.fromkeys(("table", "chart-derender"), _TABLE),
    "choice": "B",
    "polygon": "[[0, 0], [9, 0], [9, 9]]",
    "rotated-iou": "[5, 5, 4, 2, 30]",
    "point": "[0, 0, 9, 9]",
    "keypoints": '{"keypoints": [[1, 2, 2]], "area": 9}',
    "anls-star": '{"a": "x", "b": [1, 2]}',
    "json": '{"a": "x", "b": [1, 2]}',
    "python": "assert f(1) == 1",
}
MAY_FAIL = ("mathverify", "composite", "python", "judge")
"""They compute what they are asked to, up to their deadline; of the judge's replies most have no score."""
PARAMS = {"composite": {"verifiers": [{"name": "numeric"}, {"name": "mathverify"}, {"name": "anls"}]}}


class Echo(Endpoint):
    """A judge that says whatever the answer says: hostile replies."""

    async def ask(self, body: Mapping[str, Any], prices: tuple[float, float], limit_s: float) -> Reply:
        return Reply(body["messages"][1]["content"][-1]["text"], 1, 1, 0.0)


class Memory:
    """What the workers and this process, which holds the pool, take in MB, looked at again and again."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._looks: list[dict[int, float]] = []

    def look(self) -> None:
        pids = (*self._pool.pids, os.getpid())
        self._looks.append({pid: psutil.Process(pid).memory_info().rss / 1024**2 for pid in pids})

    @property
    def most(self) -> float:
        return max(size for look in self._looks for size in look.values())

    def growth(self) -> float:
        """The mean of the last third over that of the first, of the process that grew most; a newer one has none."""
        third = max(1, len(self._looks) // 3)
        return max(
            fmean(look[pid] for look in self._looks[-third:]) / fmean(look[pid] for look in self._looks[:third]) - 1.0
            for pid in self._looks[0]
            if all(pid in look for look in self._looks)
        )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dialect", ["tolerant", "v-triune"])
@pytest.mark.parametrize("verifier", sorted(VERIFIERS))
async def test_a_crowd_of_hostile_completions_is_answered_and_leaves_nothing(
    pool: Pool, verifier: str, dialect: str
) -> None:
    if dialect == "v-triune" and verifier not in ("mathverify", "detection"):
        pytest.skip("has one reading")
    spec = RewardSpec(
        verifier=verifier,
        answer="",
        ground_truth=TRUTHS.get(verifier, "7"),
        params=PARAMS.get(verifier, {}),
        options={"dialect": dialect, "judge_model": "echo"},
    )
    asking = Asking(Echo("http://nowhere", None), instruments(), at_once=8, kept=100)
    running = Running(at_once=2)
    scorer = Scorer(pool, instruments(), {"judge": asking, "python": running})
    count = PROGRAMS if verifier == "python" else COUNT
    began, replaced, failed, slowest = time.monotonic(), pool.counts.replaced, 0, 0.0
    memory = Memory(pool)
    for start in range(0, count, TOGETHER):
        texts = list(completions(min(TOGETHER, count - start), seed=start))
        asked = time.monotonic()
        rewards = await scorer.score([Sample(completion=text, spec=spec, deadline_s=DEADLINE_S) for text in texts])
        slowest = max(slowest, time.monotonic() - asked)
        assert len(rewards) == len(texts)
        for text, reward in zip(texts, rewards, strict=True):
            assert 0.0 <= reward.final <= 1.0 and reward.ok == (not reward.error)
            assert reward.ok or verifier in MAY_FAIL, (reward.error, text[:500])
        failed += sum(not reward.ok for reward in rewards)
        memory.look()
    await asking.aclose()
    await running.aclose()
    told = {
        "verifier": verifier,
        "dialect": dialect,
        "completions": count,
        "errors": failed,
        "workers_replaced": pool.counts.replaced - replaced,
        "seconds": round(time.monotonic() - began, 1),
        f"slowest_{TOGETHER}_s": round(slowest, 2),
        "most_mb": round(memory.most),
        "growth": round(memory.growth(), 3),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    assert memory.growth() < FLAT
