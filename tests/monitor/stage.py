"""A monitor over the in-memory bus, with the other services' side of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from services.monitor.app import Monitor
from services.monitor.config import MonitorConfig
from shared.blobs.store import BlobStore
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.jobs.record import JobStore
from shared.ledger.memory import MemoryLedger
from shared.messages import Message, message_id
from shared.runtime.retry import Retry
from shared.runtime.settings import Settings
from shared.samples.schema import SCHEMA
from shared.service import Ports
from tests.fakes import eventually
from tests.weather import through_weather

CONFIG = MonitorConfig(read_s=0.01, promote_s=0.01, report_s=0.0, sample_s=0.2)


def write_data(path: Path) -> None:
    row = {
        "data_source": "sums",
        "images": [],
        "prompt": [{"content": "2 + 2?", "role": "user"}],
        "ability": "math",
        "reward_model": {"answer": "4", "ground_truth": "4", "verifier": "mathverify"},
    }
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), path)


class Stage:
    """A monitor with its API, and the other services' side of the bus."""

    def __init__(self, folder: Path, server: MemoryServer, token: str | None = None, **settings: Any) -> None:
        self.folder = folder
        self.bus = MemoryBus(server)
        self.jobs = JobStore(self.bus)
        self.ledger = MemoryLedger()
        self.blobs = BlobStore((folder / "blobs").as_uri())
        own = Settings(runs=folder / "runs", replica="monitor-a", api_token=token, **settings)
        mine = through_weather(self.bus)
        self.retry = Retry()
        ports = Ports(own, mine, self.ledger, self.blobs, JobStore(mine), self.retry)
        self.monitor = Monitor(ports, CONFIG)
        transport = httpx.ASGITransport(self.monitor.api)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
        write_data(folder / "train.parquet")
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "config.json").write_text('{"model_type": "qwen2_5_vl"}')

    def job(self, **keys: object) -> dict[str, object]:
        data = {"train": [str(self.folder / "train.parquet")]}
        return {"model": str(self.folder / "model"), "total_steps": 3, "data": data, **keys}

    async def submit(self, **keys: object) -> str:
        answer = await self.http.post("/v1/jobs", json=self.job(**keys))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_id"])

    async def show(self, job: str) -> dict[str, object]:
        answer = await self.http.get(f"/v1/jobs/{job}")
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    async def state(self, job: str, state: str) -> None:
        async def is_there() -> bool:
            return (await self.show(job))["state"] == state

        await eventually(is_there)

    async def publish(self, job: str, *messages: Message) -> None:
        """Journal records, in this order."""
        for message in messages:
            record = of_job(message, job)
            prompt = getattr(record, "prompt", record)
            attempt = self.bus.server.streams["scored"].last_sequence
            number = message_id(job, prompt.kind, prompt.version, prompt.ordinal, attempt)
            await self.bus.publish("scored", job, prompt.kind, record, number)

    async def announce(self, job: str, message: Message) -> None:
        await self.bus.announce(of_job(message, job))  # type: ignore[arg-type]

    async def published(self, job: str) -> int:
        """Groups of the job that the monitor knows of."""
        report = (await self.show(job))["report"]
        return int(report["groups"]["published"])  # type: ignore[index]

    async def report(self, job: str, state: str) -> dict[str, object]:
        """report.json once it tells of `state` and everything is on file."""
        path = self.folder / "runs" / job / "report.json"

        async def is_final() -> bool:
            return path.exists() and json.loads(path.read_text())["state"] == state

        await eventually(is_final)
        return json.loads(path.read_text())  # type: ignore[no-any-return]


def of_job(message: Message, job: str) -> Message:
    """The message with another job's id."""
    if hasattr(message, "group"):
        prompt = msgspec.structs.replace(message.group.prompt, job=job)
        return msgspec.structs.replace(message, group=msgspec.structs.replace(message.group, prompt=prompt))
    return msgspec.structs.replace(message, job=job)


@contextlib.asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[Stage]:
    tasks = [asyncio.ensure_future(loop()) for loop in stage.monitor.service().loops]  # type: ignore[arg-type]
    try:
        yield stage
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await stage.http.aclose()
        errors = [error for error in results if isinstance(error, Exception)]
        if errors:
            raise ExceptionGroup("loops of the monitor failed", errors)
