"""Hostile completions: each is answered within its deadline, and the service goes on."""

import time

import psutil
import pytest

from services.reward.workers.pool import Pool
from services.reward.workers.process import START_S
from tests.reward.samples import math, text

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 2.0
_BOX = "{'bbox_2d':[%s],'label':'a'},"
TRUTH = "<answer>\n[{'bbox_2d': [1, 2, 3, 4], 'label': 'a'}]\n</answer>"

MATH = {
    "power tower": "\\boxed{9**9**9**9}",
    "power tower in LaTeX": "\\boxed{9^{9^{9^{9}}}}",
    "factorial": "\\boxed{1000000000!}",
    "nested boxes": "\\boxed{" * 10_000,
    "nested and closed boxes": "\\boxed{" * 10_000 + "4" + "}" * 10_000,
    "brackets": "[" * 10_000_000,
    "parentheses": "\\boxed{" + "(" * 5000 + "1" + ")" * 5000 + "}",
    "dollars": "$" * 200_000,
    "open mathematics": "$$" + "\\boxed{a" * 3000,
    "answers": "answer $" * 20_000,
    "NUL bytes": "\\boxed{\x00}" + "\x00" * 1000,
    "half-closed tags": "<think>\n</thin\n<answer>\n\\boxed{4\n</answer",
    "replacement characters": "\ufffd" * 1000 + "\\boxed{\udfff}".encode("utf-8", "replace").decode(),
}
BOXES = {
    "many boxes": "<answer>[" + _BOX % "1,2,3,4" * 1_000_000 + "]</answer>",
    "many places": "<answer>[" + "".join(_BOX % f"{i},2,{i + 5},4" for i in range(100_000)) + "]</answer>",
    "not numbers": "<answer>[" + _BOX % "nan,inf,-inf,1" + "]</answer>",
    "infinite": "<answer>[" + _BOX % "-1e999,-1e999,1e999,1e999" + "]</answer>",
    "huge": "<answer>[" + _BOX % f"0,0,1e308,{10**400}" + "]</answer>",
    "brackets": "<answer>" + "[" * 10_000_000 + "</answer>",
    "open answers": "<answer>" * 200_000,
    "half-closed": "\n<answer>\n" * 1000 + "\n</answer",
}


@pytest.mark.parametrize("name", MATH)
async def test_hostile_mathematics_is_answered_within_its_deadline(pool: Pool, name: str) -> None:
    await _answered(pool, "mathverify", MATH[name], "\\boxed{4}")


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("verifier", ["detection", "iou"])
async def test_hostile_boxes_are_answered_within_their_deadline(pool: Pool, name: str, verifier: str) -> None:
    await _answered(pool, verifier, BOXES[name], TRUTH)


@pytest.mark.parametrize("verifier", ["exact", "anls", "numeric", "choice", "count", "format"])
async def test_hostile_text_is_answered_by_every_other_verifier(pool: Pool, verifier: str) -> None:
    truth = "b" if verifier in ("choice", "exact", "anls") else "4"
    for completion in (*MATH.values(), "<answer>" + "9," * 500_000 + "</answer>", "\\boxed{" + "a " * 500_000 + "}"):
        await _answered(pool, verifier, completion, truth)


async def test_memory_stays_bounded_after_all_of_that(pool: Pool) -> None:
    assert all(psutil.Process(pid).memory_info().rss < 1.5 * 1024**3 for pid in pool.pids)


async def _answered(pool: Pool, verifier: str, completion: str, truth: str) -> None:
    started = time.monotonic()
    reward, other = await pool.score([text(completion, verifier, truth, DEADLINE_S), math("4")])
    # What is measured here is the wait for the answer: the deadline, a worker's start where one was lost, and the way.
    assert time.monotonic() - started < DEADLINE_S + START_S
    assert 0.0 <= reward.final <= 1.0 and reward.ok == (not reward.error)
    assert other.final == 1.0
