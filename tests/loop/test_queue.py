"""Jobs in a queue over real processes: each runs when the one before it has ended, however that one ended."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.loop.system import agrees, running

pytestmark = [pytest.mark.loop, pytest.mark.timeout(600)]


async def test_queued_jobs_run_one_after_the_other_though_one_fails_and_one_is_stopped(
    tmp_path: Path, model: Path, data: Path
) -> None:
    lost = tmp_path / "lost"
    shutil.copytree(data, lost)
    async with running(tmp_path, model, data) as system:
        first = system.submit(total_steps=3)
        failing = system.submit(total_steps=3, data={"train": [str(lost / "train")], "held_out": []})
        stopped = system.submit(total_steps=500, data={"held_out": []})
        last = system.submit(total_steps=3, algorithm={"max_staleness": 1})
        shutil.rmtree(lost)

        agrees(await system.finished(first), steps=3)
        with pytest.raises(AssertionError, match="no such file"):  # a failed job is told by its sentence
            await system.until(failing, _has_ended)
        await system.until(stopped, lambda details: details["step"] >= 2)
        assert system.client.post(f"/v1/jobs/{stopped}/stop").status_code == 200
        agrees(await system.finished(last), steps=3)

        details = [system.show(job) for job in (first, failing, stopped, last)]
        assert [one["state"] for one in details] == ["done", "failed", "stopped", "done"]
        ends = [one["ended_at"] for one in details]
        assert ends == sorted(ends)
        starts = [one["started_at"] for one in details]
        assert all(start >= end for start, end in zip(starts[1:], ends, strict=False)), "two jobs ran at once"


def _has_ended(details: dict[str, Any]) -> bool:
    return details["state"] in ("done", "stopped")
