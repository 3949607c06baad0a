"""A job whose reward anything wins and whose exam nobody can read, over real processes: both are found."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest

from services.monitor.analysis.diagnostics import WINDOW
from tests.data.rows import math_row, png, write
from tests.loop.system import running
from tests.reward.endpoint import serving

pytestmark = [pytest.mark.loop, pytest.mark.timeout(600)]

STEPS = WINDOW + 2
SCORE = 0.25
GENEROUS = """
def generous(completion, spec, context):
    return 1.0
"""


def _torn(number: int) -> dict[str, Any]:
    """A row whose image has a good header, and no pixels behind it."""
    row = math_row(number, source="exam")
    row["images"][0]["bytes"] = png(shade=number)[:45]
    return row


async def test_a_reward_that_anything_wins_and_an_exam_that_nobody_can_read_are_found(
    tmp_path: Path, model: Path
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "mine.py").write_text(GENEROUS)
    rows = write(tmp_path / "data" / "train.parquet", [math_row(n, verifier="generous") for n in range(8)])
    exam = write(tmp_path / "data" / "exam.parquet", [_torn(n) for n in range(3)])
    with serving() as sceptic:
        sceptic.say(json.dumps({"score": SCORE}))
        env = {"TRIUNE_JUDGE_URL": sceptic.url, "TRIUNE_REWARD_PLUGINS": str(plugins)}
        async with running(tmp_path, model, tmp_path, env=env) as system:
            job = system.submit(
                total_steps=STEPS,
                data={"train": [str(rows)], "held_out": [str(exam)]},
                algorithm={"prompts_per_step": 2, "samples_per_prompt": 2},
                sampling={"max_new_tokens": 3},
                reward={"plugins": ["mine.py"], "audit": "judge", "audit_share": 1.0, "judge_model": "sceptic"},
                learner={"checkpoint_every": 0},
            )
            report = await system.finished(job)
            found = {line["rule"]: line for line in system.client.get(f"/v1/jobs/{job}/diagnostics").json()["findings"]}
            points = pq.read_table(system.deployment.runs / job / "metrics.parquet").to_pylist()
    assert report["state"] == "done" and report["groups"]["trained"] == 2 * STEPS
    values = {name: [one["value"] for one in points if one["name"] == name] for name in ("reward", "audit/gap")}
    assert set(values["reward"]) == {1.0}  # an audit changes no reward
    assert fmean(values["audit/gap"]) == pytest.approx(1.0 - SCORE)
    assert found["audit-verifier"]["sentence"] == (
        "numbers: audit: an independent verifier finds 0.75 less accuracy than the one trained on"
    )
    assert found["held-out"]["sentence"] == "none of 3 held-out samples could be judged"
    assert all("data:image/png;base64," in json.dumps(one["messages"]) for one in sceptic.asked) and sceptic.asked
