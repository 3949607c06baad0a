"""The world around the learner in its flow tests: an engine that counts, and a generator of groups on a memory bus."""

import asyncio
import errno
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from services.learner.attention.batch import Ready
from services.learner.config import LearnerConfig
from services.learner.engine import Facts, Scope, StepResult, StepWork, TensorSink
from services.learner.metrics import LearnerMetrics
from services.learner.training import Training
from shared.blobs.store import BlobStore
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.errors import BadSample, one_error
from shared.jobs.document import parse_job
from shared.jobs.following import ActiveJob
from shared.jobs.record import JobRecord, JobStore
from shared.jobs.spec import JobSpec
from shared.ledger.memory import MemoryLedger
from shared.messages import (
    Completion,
    DeviceTurn,
    EndOfOrder,
    EvalDue,
    Kind,
    Scored,
    StepDone,
    Voided,
    WeightsPublished,
    message_id,
)
from shared.runtime.settings import Settings
from shared.service import Ports, Status
from tests.fakes import make_scored, make_voided
from tests.weather import through_weather

JOB = "flow"


class CountingEngine:
    """An engine and its ingest; its weight is a running hash of what was trained on: equal histories, equal bits."""

    def __init__(
        self,
        bad: frozenset[int] = frozenset(),
        die_before_step: int | None = None,
        *,
        noise: float = 0.0,
        full_disk: int = 0,
    ) -> None:
        self.history: list[list[int]] = []
        self.importance: list[bool] = []
        self.saved_after: list[int] = []  # steps of this life
        self.turns: list[str] = []  # on a shared device
        self.weight = torch.zeros(1, dtype=torch.float64)
        self._bad, self._die = bad, die_before_step
        self._noise, self._full_disk = noise, full_disk  # of another device's arithmetic; saves that find no room

    def open(self, spec: JobSpec, checkpoint: Path | None) -> Facts:
        if checkpoint is not None:
            self.weight = torch.tensor(json.loads((checkpoint / "w.json").read_text()), dtype=torch.float64)
        return {"device": "none"}

    def ready(self, group: Scored, image_bytes: Sequence[bytes]) -> Ready:
        if group.prompt.ordinal in self._bad:
            raise BadSample(f"ordinal {group.prompt.ordinal} cannot be used")
        finals = np.array([reward.final for reward in group.rewards], dtype=np.float64)
        nothing = np.zeros(0, dtype=np.int64)
        return Ready(
            group, nothing, np.zeros((3, 0), dtype=np.int64), 0, finals - finals.mean(), (), (), np.ptp(finals) == 0
        )

    def step(self, work: StepWork) -> StepResult:
        if work.step == self._die:
            raise KilledHere
        self.history.append([group.ordinal for group in work.groups])
        self.importance.append(work.importance)
        for group in work.groups:
            self.weight = self.weight * 1.0000001 + group.ordinal + work.step / work.total_steps + self._noise
        return StepResult({"loss": 0.0}, {}, 1, 1, 0)

    def export(self, sink: TensorSink, *, scope: Scope) -> None:
        tensors = {"w": self.weight} if scope == "trained" else {"frozen": torch.ones(1)}
        sink.begin({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
        for name, tensor in tensors.items():
            sink.put(name, tensor)

    def save(self, folder: Path) -> None:
        if self._full_disk > 0:
            self._full_disk -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self.saved_after.append(len(self.history))
        (folder / "w.json").write_text(json.dumps(self.weight.tolist()))

    def sleep(self) -> None:
        self.turns.append("sleep")

    def wake(self) -> None:
        self.turns.append("wake")

    def close(self) -> None:
        pass


class KilledHere(Exception):
    """The learner's process died at this place."""


class World:
    """A bus, a job record, and everybody but the learner: groups appear as soon as the window admits them."""

    def __init__(
        self,
        runs: Path,
        *,
        seed: int = 0,
        voids: float = 0.0,
        uniform: float = 0.0,
        checkpoint_every: int = 2,
        journal_bytes: int | None = None,
        shares_device: bool = False,
        overlap: str = "auto",
        **algorithm: object,
    ) -> None:
        self.server = MemoryServer(max_bytes={} if journal_bytes is None else {"scored": journal_bytes})
        self.bus = MemoryBus(self.server)
        self.jobs = JobStore(self.bus)
        mine = through_weather(self.bus)  # the learner's handle
        self.ledger = MemoryLedger()
        self.settings = Settings(runs=runs)
        self.blobs = BlobStore((runs / "blobs").as_uri())
        self.ports = Ports(self.settings, mine, self.ledger, self.blobs, JobStore(mine))
        self.status = Status()
        self.published = 0
        self._open: set[int] = set()  # ordinals whose prompts are out
        self.spoil: Callable[[Scored], Scored] = lambda record: record
        self.unanswered: set[int] = set()  # versions whose evaluation nobody generates yet
        self._seed, self._voids, self._uniform, self._held_out = seed, voids, uniform, 3
        self._rng = random.Random(seed)
        self.spec = parse_job(
            {
                "model": "none",
                "total_steps": 6,
                "data": {"train": ["x"], "held_out": ["x"]},
                "learner": {"checkpoint_every": checkpoint_every, "overlap": overlap},
                "rollout": {"shares_device": shares_device},
                "algorithm": {"prompts_per_step": 4, "samples_per_prompt": 2} | algorithm,
            }
        )

    async def submit(self) -> ActiveJob:
        await self.jobs.create(JobRecord(id=JOB, spec=self.spec, state="running", created_at=0.0))
        return await self.active()

    async def active(self) -> ActiveJob:
        record = await self.jobs.get(JOB)
        assert record is not None
        return ActiveJob(record)

    def training(self, job: ActiveJob, engine: CountingEngine) -> Training:
        config = LearnerConfig(rewrite_s=0.0, last_checkpoint_s=0.2)
        return Training(job, self.ports, engine, engine, config, self.status, LearnerMetrics())

    async def learn(self, engine: CountingEngine, *, limit_s: float = 20.0) -> None:
        """A learner's life: until its work ends or dies."""
        self.learners = await self.active()
        with one_error():
            await self._learn(self.learners, engine, limit_s)

    async def _learn(self, job: ActiveJob, engine: CountingEngine, limit_s: float) -> None:
        async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.generate()), group.create_task(self._watch(job))]
            try:
                await self.training(job, engine).run()
            except* KilledHere:
                pass
            for task in tasks:
                task.cancel()

    async def _watch(self, job: ActiveJob) -> None:
        while True:
            record = await self.jobs.get(JOB)
            if record is not None:
                job.update(record)
            await self.server.wait_change(0.05)

    async def generate(self) -> None:
        """Publish a record for every ordinal that the newest window admits, in random order; answer evaluations.

        What is void is void before its version comes.
        """
        evaluated: set[int] = set()
        while True:
            await self._publish_window()
            await self._evaluate(evaluated)
            await self._seal()
            await self._leave_device()
            await self.server.wait_change(0.05)

    async def _publish_window(self) -> None:
        last = await self.bus.last_event(JOB, "weights")
        if last is None:
            return
        weights = last[0]
        assert isinstance(weights, WeightsPublished)
        self._open |= set(range(self.published, weights.prompts_end))
        self.published = max(self.published, weights.prompts_end)
        ordinals = self.arrange(sorted(self._open))
        admitted = [ordinal for ordinal in ordinals if self._is_void(ordinal) or ordinal < weights.window_end]
        for place, ordinal in enumerate(admitted):
            await self.before(len(admitted) - place)
            is_void, is_uniform = self._is_void(ordinal), self._is_uniform(ordinal)
            record = make_voided(ordinal, job=JOB) if is_void else self.spoil(scored(ordinal, weights.version))
            if is_uniform and isinstance(record, Scored):
                record = msgspec.structs.replace(record, rewards=[record.rewards[0]] * len(record.rewards))
            await self.bus.publish("scored", JOB, "train", record, message_id(JOB, "train", None, ordinal))
            self._open.remove(ordinal)

    def _is_void(self, ordinal: int) -> bool:
        return self._draws(ordinal)[0] < self._voids

    def _is_uniform(self, ordinal: int) -> bool:
        return self._draws(ordinal)[1] < self._uniform

    def _draws(self, ordinal: int) -> tuple[float, float]:
        own = random.Random(f"{self._seed}/{ordinal}")
        return own.random(), own.random()

    def arrange(self, ordinals: list[int]) -> list[int]:
        """The order in which they are published."""
        self._rng.shuffle(ordinals)
        return ordinals

    async def before(self, left: int) -> None:
        """Called before each group of a window is published, with how many are left."""

    async def _evaluate(self, evaluated: set[int]) -> None:
        for due in await self.events("eval-due"):
            if isinstance(due, EvalDue) and due.version not in evaluated | self.unanswered:
                await self._answer(due.version)
                evaluated.add(due.version)

    async def _answer(self, version: int) -> None:
        for ordinal in range(self._held_out):
            record = scored(ordinal, version, kind="eval")
            await self.bus.publish("scored", JOB, "eval", record, message_id(JOB, "eval", version, ordinal))
        await self.bus.announce(EndOfOrder(job=JOB, kind="eval", total=self._held_out, version=version))

    async def _seal(self) -> None:
        record = await self.jobs.get(JOB)
        if record is None or not record.seal_wanted or record.sealed is not None:
            return
        total = self.published
        opened = {ordinal: ("sums", "math") for ordinal in range(total)}
        await self.bus.announce(EndOfOrder(job=JOB, kind="train", total=total, open=opened))
        await self.jobs.update(JOB, lambda old: msgspec.structs.replace(old, sealed=total))

    async def _leave_device(self) -> None:
        last = await self.bus.last_event(JOB, "device")
        if last is not None and isinstance(last[0], DeviceTurn) and last[0].state == "wanted":
            await self.bus.announce(DeviceTurn(job=JOB, turn=last[0].turn, state="free"))

    # ---------------------------------------------------------------- what came of it

    async def steps(self) -> list[StepDone]:
        return [event for event in await self.events("step") if isinstance(event, StepDone)]

    async def versions(self) -> list[WeightsPublished]:
        return [event for event in await self.events("weights") if isinstance(event, WeightsPublished)]

    async def events(self, name: str) -> list[object]:
        last = await self.bus.last_event(JOB, name)
        found: list[object] = []
        if last is not None:
            async for event, sequence in self.bus.events(JOB, name):
                found.append(event)
                if sequence >= last[1]:
                    break
        return found

    async def voids(self) -> dict[int, Voided]:
        reader = await self.bus.read_journal(JOB, "train")
        entries = await reader.fetch(10_000, 0.1)
        return {entry.message.ordinal: entry.message for entry in entries if isinstance(entry.message, Voided)}


def scored(ordinal: int, version: int, kind: Kind = "train") -> Scored:
    """A scored group that `version` sampled."""
    record = make_scored(ordinal, job=JOB, kind=kind)
    prompt = msgspec.structs.replace(record.prompt, version=version if kind == "eval" else None)
    completions = [
        Completion(c.token_ids, c.log_probs, c.text, c.finish, [(version, c.num_tokens)])
        for c in record.group.completions
    ]
    group = msgspec.structs.replace(record.group, prompt=prompt, completions=completions)
    return msgspec.structs.replace(record, group=group)
