"""A deployment for chaos: a tiny random model, drawn rows, a disk that can be full, and an eye on every step."""

import asyncio
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from shared.bus.nats.bus import NatsBus
from shared.errors import Corrupt, TriuneError
from shared.messages import StepDone, WeightsPublished
from shared.samples.schema import RATIO_NAMES, SCHEMA
from tests.chaos.schedule import Schedule
from tests.chaos.serve import FAKES, SKEW
from tests.chaos.verifier import POISON
from tests.disks import small_disk
from triune.demo.tiny_vlm import make_tiny_vlm
from triune.local.deployment import Deployment, deployed

ROOT = Path(__file__).parents[2]
DISK_BYTES = 768 << 20
REPLICAS = {"data": 1, "rollout": 2, "reward": 1, "learner": 1, "monitor": 1}
PROMPTS_PER_STEP, SAMPLES_PER_PROMPT, HELD_OUT = 4, 2, 3
SOURCES = ("red", "blue")
ROWS = 24
"""Of each source."""


@dataclass
class Seen:
    """What a job's events told, as they came: steps and versions with the time of their arrival."""

    steps: list[tuple[float, StepDone]] = field(default_factory=list)
    versions: list[tuple[float, WeightsPublished]] = field(default_factory=list)

    @property
    def step(self) -> int:
        return max((done.step for _, done in self.steps), default=0)


class System:
    """The running deployment and its jobs."""

    def __init__(self, deployment: Deployment, base: Path, disk: Path, bus: NatsBus) -> None:
        self.deployment, self.base, self.disk, self.bus = deployment, base, disk, bus
        self.moments, self.skews = base / "moments", base / "skews"
        self.blobs = disk / "blobs"
        self.seen: dict[str, Seen] = {}
        self.spoiled: set[str] = set()
        """Digests of the blobs that were destroyed."""
        self._eyes: list[asyncio.Task[None]] = []
        self.client = httpx.AsyncClient(base_url=deployment.api_url, headers=deployment.headers, timeout=10.0)

    async def submit(self, schedule: Schedule) -> str:
        """One of the schedule's jobs; returns its id."""
        return await self.send(self.document(schedule))

    def document(self, schedule: Schedule) -> dict[str, Any]:
        """The job file of one of the schedule's jobs."""
        kinds = ("poisoned",) if schedule.poison else ()
        data = self.base / "data"
        return {
            "name": f"chaos-{schedule.seed}",
            "seed": 7,
            "model": str(self.base / "model"),
            "total_steps": schedule.steps,
            "data": {
                "train": [str(data / f"{name}.parquet") for name in (*SOURCES, *kinds)],
                "held_out": [str(data / "held-out.parquet")],
                "cot_prompts": False,
            },
            "algorithm": {
                "prompts_per_step": PROMPTS_PER_STEP,
                "samples_per_prompt": SAMPLES_PER_PROMPT,
                "max_staleness": schedule.max_staleness,
            },
            "sampling": {"max_new_tokens": 24},
            "optimizer": {"learning_rate": 1e-3},
            "learner": {"checkpoint_every": 3, "overlap": "on" if schedule.overlap else "off"},
        }

    async def send(self, document: dict[str, Any]) -> str:
        """Submit a job, again while the API is away; from then on its steps are heard."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self.client.post("/v1/jobs", json=document)
                if answer.status_code != 503:
                    assert answer.status_code == 201, answer.text
                    job = str(answer.json()["job_id"])
                    self.seen[job] = Seen()
                    self._eyes.append(asyncio.create_task(self._watch(job)))
                    return job
            await asyncio.sleep(0.2)

    async def _watch(self, job: str) -> None:
        """Hear every step and version of the job, whatever happens to the server."""
        seen, after = self.seen[job], 0
        while True:
            try:
                async for event, sequence in self.bus.events(job, "step", "weights", after=after):
                    after = sequence
                    if isinstance(event, StepDone):
                        seen.steps.append((time.monotonic(), event))
                    elif isinstance(event, WeightsPublished):
                        seen.versions.append((time.monotonic(), event))
            except Corrupt:  # the server has lost its data: what comes now is of another stream
                after = 0
                await asyncio.sleep(0.2)
            except TriuneError:
                await asyncio.sleep(0.2)

    def step(self, jobs: Sequence[str]) -> int:
        """Steps of all these jobs together."""
        return sum(self.seen[job].step for job in jobs)

    async def show(self, job: str) -> dict[str, Any] | None:
        """The job as the API tells it; None while the API is away."""
        answer = await self.answer(job)
        return dict(answer.json()) if answer is not None and answer.is_success else None

    async def answer(self, job: str) -> httpx.Response | None:
        """The API's answer on the job, whatever it is; None while the API is away."""
        try:
            return await self.client.get(f"/v1/jobs/{job}")
        except httpx.TransportError:
            return None

    def report(self, job: str) -> dict[str, Any]:
        return dict(json.loads((self.deployment.runs / job / "report.json").read_text()))

    async def close(self) -> None:
        for eye in self._eyes:
            eye.cancel()
        await asyncio.gather(*self._eyes, return_exceptions=True)
        await self.client.aclose()
        await self.bus.close()


@contextlib.asynccontextmanager
async def running(base: Path, *, fakes: bool = False, replicas: Mapping[str, int] = REPLICAS) -> AsyncIterator[System]:
    """The deployment under `base`, which is filled where it is empty; stopped at the end."""
    _make_model_and_data(base)
    for folder in ("moments", "skews"):
        (base / folder).mkdir(exist_ok=True)
    env = {
        "PYTHONPATH": os.pathsep.join((str(_plugin(base)), str(ROOT))),
        "TRIUNE_MOMENTS": str(base / "moments"),
        "TRIUNE_BLOBS": (base / "disk" / "blobs").as_uri(),
        SKEW: str(base / "skews"),
        FAKES: "1" if fakes else "",
    }
    with small_disk(base / "disk", DISK_BYTES) as disk:
        async with deployed(
            disk / "runs",
            disk / "local",
            replicas=replicas,
            threads=dict.fromkeys(replicas, 1),
            env=env,
            command=lambda service: [sys.executable, "-m", "tests.chaos.serve", service],
            quick_deaths=1000,  # they are ours
            ready_s=600.0,
        ) as deployment:
            assert deployment.servers is not None
            bus = await NatsBus.connect(deployment.servers.nats.url, name="chaos")
            system = System(deployment, base, disk, bus)
            try:
                yield system
            finally:
                await system.close()


async def wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Whether `condition()` came to hold within `limit_s`."""
    until = time.monotonic() + limit_s
    while not (holds := condition()) and time.monotonic() < until:  # noqa: ASYNC110 - files and events ring no bell
        await asyncio.sleep(0.02)
    return holds


def _make_model_and_data(base: Path) -> None:
    if not (base / "model").exists():
        make_tiny_vlm(base / "model", ["Which colour is this?", "user", "assistant"] * 4, seed=1)
    data = base / "data"
    data.mkdir(exist_ok=True)
    for number, source in enumerate(SOURCES):
        _write(data / f"{source}.parquet", [_row(source, 100 * number + k) for k in range(ROWS)])
    _write(data / "poisoned.parquet", [_row("poisoned", 900, truth=POISON)])
    _write(data / "held-out.parquet", [_row("red", 500 + k) for k in range(HELD_OUT)])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)


def _row(source: str, number: int, truth: str = "any") -> dict[str, Any]:
    image = io.BytesIO()
    Image.new("RGB", (56, 56), (number % 256, number // 256, 60)).save(image, "PNG")
    leaves = {"det_verifier_normalized": None, "det_reward_ratio": dict.fromkeys(RATIO_NAMES)}
    judged = {"answer": truth, "ground_truth": truth, "accuracy_ratio": 1.0, "format_ratio": 0.0}
    return {
        "data_source": source,
        "images": [{"bytes": image.getvalue(), "path": None}],
        "prompt": [{"content": f"<image>Which colour is {number}?", "role": "user"}],
        "ability": "colour",
        "reward_model": judged | {"verifier": "chaos", "verifier_parm": leaves},
        "extra_info": {"id": f"{source}/{number}", "image_path": None},
    }


def _plugin(base: Path) -> Path:
    """The verifier as an installed package adds it: by an entry point."""
    folder = base / "plugin"
    meta = folder / "chaos-1.0.dist-info"
    meta.mkdir(parents=True, exist_ok=True)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[triune.verifiers]\nchaos = tests.chaos.verifier:score\n")
    return folder
