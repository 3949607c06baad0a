"""Thousands of hostile completions through every verifier: no hang, no crash, memory flat.

`TRIUNE_HOSTILE=10000 pytest -rP tests/reward/test_hostile_crowd.py` sends as many, and shows what they took; `make
test` has time for fewer.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import psutil
import pytest

from services.reward.metrics import instruments
from services.reward.outside.asking import Asking
from services.reward.outside.endpoint import Endpoint, Reply
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
FLAT_MB = 256
"""What a process may grow by in the second half: caches of a bounded number of entries fill up."""
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
    """What the workers and this process, which holds the pool, take in MB."""

    def __init__(self, pool: Pool) -> None:
        self._by_pid = {pid: psutil.Process(pid).memory_info().rss / 1024**2 for pid in (*pool.pids, os.getpid())}

    @property
    def most(self) -> float:
        return max(self._by_pid.values())

    def growth_since(self, earlier: "Memory") -> float:
        """Of the process that grew most among those that were there already."""
        return max(now - earlier._by_pid[pid] for pid, now in self._by_pid.items() if pid in earlier._by_pid)


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
    scorer = Scorer(pool, instruments(), {"judge": asking, "python": Running(at_once=2)})
    count = PROGRAMS if verifier == "python" else COUNT
    began, replaced, failed, slowest = time.monotonic(), pool.counts.replaced, 0, 0.0
    half = Memory(pool)
    for start in range(0, count, TOGETHER):
        if start <= count // 2:
            half = Memory(pool)
        texts = list(completions(min(TOGETHER, count - start), seed=start))
        asked = time.monotonic()
        rewards = await scorer.score([Sample(completion=text, spec=spec, deadline_s=DEADLINE_S) for text in texts])
        slowest = max(slowest, time.monotonic() - asked)
        assert len(rewards) == len(texts)
        for text, reward in zip(texts, rewards, strict=True):
            assert 0.0 <= reward.final <= 1.0 and reward.ok == (not reward.error)
            assert reward.ok or verifier in MAY_FAIL, (reward.error, text[:500])
        failed += sum(not reward.ok for reward in rewards)
    await asking.aclose()
    end = Memory(pool)
    assert end.growth_since(half) < FLAT_MB
    told = {
        "verifier": verifier,
        "dialect": dialect,
        "completions": count,
        "errors": failed,
        "workers_replaced": pool.counts.replaced - replaced,
        "seconds": round(time.monotonic() - began, 1),
        f"slowest_{TOGETHER}_s": round(slowest, 2),
        "most_mb": round(end.most),
        "grown_in_second_half_mb": round(end.growth_since(half), 1),
    }
    sys.stdout.write(json.dumps(told) + "\n")
