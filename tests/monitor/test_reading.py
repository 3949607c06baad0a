"""What the reading of a job leaves behind when it is let go."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.monitor import handlers
from services.monitor.config import MonitorConfig
from services.monitor.exports.feeding import Feeds
from services.monitor.history.store import Store
from shared.jobs.document import parse_job
from shared.jobs.record import JobRecord

LIMIT_S = 60.0


class Slow(Store):
    """Takes as long to open as the test likes."""

    opens, may_open, closed = threading.Event(), threading.Event(), threading.Event()

    def __init__(self, folder: Path) -> None:
        self.opens.set()
        assert self.may_open.wait(LIMIT_S)
        super().__init__(folder)

    def close(self) -> None:
        super().close()
        self.closed.set()


async def test_a_job_that_is_let_go_while_its_store_is_being_opened_leaves_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "Store", Slow)
    spec = parse_job({"model": "m", "total_steps": 1, "data": {"train": ["x"]}})
    record = JobRecord(id="job", spec=spec, state="running", created_at=0.0)
    desk, feeds = SimpleNamespace(runs=tmp_path, config=MonitorConfig()), Feeds(tmp_path, "job", [], MonitorConfig())
    reading = asyncio.ensure_future(handlers.JobReading(desk, record, feeds).run())  # type: ignore[arg-type]
    assert await asyncio.to_thread(Slow.opens.wait, LIMIT_S)
    reading.cancel()
    Slow.may_open.set()
    await asyncio.wait({reading}, timeout=LIMIT_S)
    assert reading.cancelled() and Slow.closed.is_set()
