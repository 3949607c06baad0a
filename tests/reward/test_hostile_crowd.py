"""Thousands of hostile completions through every verifier: no hang, no crash, memory flat.

`TRIUNE_HOSTILE=10000` sends as many; `make test` has time for fewer.
"""

import os
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
PARAMS = {"composite": {"verifiers": [{"name": "numeric"}, {"name": "mathverify"}, {"name": "anls"}]}}


class Echo(Endpoint):
    """A judge that says whatever the answer says: hostile replies."""

    async def ask(self, body: Mapping[str, Any], prices: tuple[float, float], limit_s: float) -> Reply:
        return Reply(body["messages"][1]["content"][-1]["text"], 1, 1, 0.0)


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
    for start in range(0, count, 200):
        texts = completions(min(200, count - start), seed=start)
        rewards = await scorer.score([Sample(completion=text, spec=spec, deadline_s=DEADLINE_S) for text in texts])
        assert len(rewards) == min(200, count - start)
        for reward in rewards:
            assert 0.0 <= reward.final <= 1.0 and reward.ok == (not reward.error)
            # Only mathematics may run out of its deadline (sympy is asked to), and most of these replies have no score.
            assert reward.ok or verifier in ("mathverify", "composite", "judge"), reward.error
    await asking.aclose()
    assert all(psutil.Process(pid).memory_info().rss < 1024**3 for pid in pool.pids)
