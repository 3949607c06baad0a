"""One replica at work on one job: take prompts, one task a group, answer.

Evaluation goes before training; what has come back twice is done alone, so that a prompt that kills its replica takes
no other with it.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial

from services.rollout.config import RolloutConfig
from services.rollout.device import SharedDevice
from services.rollout.engine import Engine, Loaded, Prepared, UpdateMode
from services.rollout.gate import Gate, Want
from services.rollout.generation import completed
from services.rollout.hand import Hand, Held
from services.rollout.handlers import Answers
from services.rollout.in_flight import InFlight
from services.rollout.metrics import RolloutMetrics
from services.rollout.shares import fair_share
from services.rollout.weights import WeightsLoader, WeightsView
from shared.blobs.weights import WeightsStore
from shared.bus.port import WorkQueue
from shared.errors import BadSample, BlobMissing, Unavailable, one_error
from shared.jobs.following import ActiveJob
from shared.jobs.spec import JobSpec
from shared.ledger.port import LOADED_S
from shared.messages import Completed, EngineOpened, ImageRef, Kind, Prompt, WeightsLoaded, message_id, void_of
from shared.runtime.logging import get_logger
from shared.runtime.retry import BLOB_STORE, is_spent
from shared.service import Ports, Status

OpenEngine = Callable[[JobSpec], Awaitable[Engine]]
_ALONE_FROM = 3
"""The attempt from which on a prompt is done alone.

A prompt that comes back once was most likely held by a replica that was stopped or killed for reasons of its own, with
all else that it held: one by one, that would keep a survivor busy many times longer than together.
"""
_GLANCE_S = 0.05
"""How long one queue is looked at while the other may have something, too."""


class Replica:
    """The work on one job, from opening its model to the job's end."""

    def __init__(
        self,
        job: ActiveJob,
        ports: Ports,
        open_engine: OpenEngine,
        config: RolloutConfig,
        status: Status,
        metrics: RolloutMetrics,
    ) -> None:
        self._job, self._ports, self._open_engine, self._config = job, ports, open_engine, config
        self._status, self._metrics = status, metrics
        self._deadline_s = job.spec.rollout.group_deadline_s
        self._hand = Hand()
        self._answers = Answers(ports.bus, ports.ledger, metrics)
        self._in_flight = InFlight(ports.ledger, job.id, self._deadline_s)
        self._weights = WeightsView(ports.bus, job.id)
        self._device = SharedDevice(ports.bus, job.id, ports.settings.replica, status)
        self._groups: set[asyncio.Task[None]] = set()
        self._replicas = 1
        self._log = get_logger(job=job.id)

    async def run(self) -> None:
        """Work until cancelled; raises the first TriuneError alone. What is in hand at the end is handed back."""
        failed = True
        try:
            if self._job.spec.rollout.shares_device:
                await self._device.until_ours()
            self._status.state = "loading"
            self._engine = await self._open_engine(self._job.spec)
            await self._tell_engine()
            store = WeightsStore(self._ports.blobs, self._ports.settings.weights)
            with contextlib.closing(WeightsLoader(store)) as loader:
                async with contextlib.aclosing(self._engine):
                    await self._work(loader)
        except asyncio.CancelledError:
            failed = False
            raise
        finally:
            self._status.state, self._status.version, self._status.in_flight = "idle", -1, 0
            await self._hand.hand_back_all(failed=failed)
            await self._in_flight.tell()

    async def _work(self, loader: WeightsLoader) -> None:
        self._gate = Gate(
            self._engine,
            self._weights,
            loader,
            update_mode(self._job.spec),
            self._config.weights_limit_s,
            self._loaded,
            self._ports.retry,
        )
        with one_error():
            async with asyncio.TaskGroup() as self._tasks:
                await self._weights.look()
                await self._count_replicas()
                self._tasks.create_task(self._weights.watch())
                self._tasks.create_task(self._gate.steer())
                if self._job.spec.rollout.shares_device:
                    self._tasks.create_task(self._device.follow(self._gate))
                self._tasks.create_task(self._hand.keep_alive())
                self._tasks.create_task(self._in_flight.keep_telling())
                self._tasks.create_task(self._tell_version())
                self._tasks.create_task(self._keep_counting())
                await self._serve()

    # ---------------------------------------------------------------- prompts

    async def _serve(self) -> None:
        bus, job = self._ports.bus, self._job.id
        evaluation, training = await bus.work("prompts", job, "eval"), await bus.work("prompts", job, "train")
        while True:
            if not self._groups:
                self._status.state = "waiting"
            began, was_idle = time.monotonic(), not self._groups
            suspects = []
            for held in await self._take(evaluation, training):
                if _is_suspect(held):
                    suspects.append(held)
                else:
                    self._start(held)
            if was_idle:
                self._metrics.waited(time.monotonic() - began)
            for held in sorted(suspects, key=_turn):
                await self._alone(held)

    async def _take(self, evaluation: WorkQueue, training: WorkQueue) -> list[Held]:
        """Prompts to start now, all of one kind; none after a while without any, or while the hand is full."""
        if self._weights.evaluating:
            taken = await self._fetch(evaluation, await self._room("eval"), _GLANCE_S)
            if taken:
                return taken
        if self._job.record.state == "stopping":  # the learner has voided what is in the queue
            await self._job.changed(_GLANCE_S)
            return []
        wait_s = _GLANCE_S if self._weights.evaluating else self._config.fetch_wait_s
        return await self._fetch(training, await self._room("train"), wait_s)

    async def _fetch(self, queue: WorkQueue, room: int, wait_s: float) -> list[Held]:
        if room > 0:
            taken = [self._hand.take(delivery) for delivery in await queue.fetch(room, wait_s)]
            self._status.in_flight = len(self._hand)
            return [held for held in taken if not await self._is_settled(held)]
        await asyncio.wait(self._groups, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        return []

    async def _room(self, kind: Kind) -> int:
        """How many more groups of `kind` this replica may take."""
        rows = self._engine.traits.room
        if kind == "eval":
            room, open_groups = rows, sum(await self._ports.bus.waiting("prompts", self._job.id, "eval"))
        else:
            room = max(1, rows // self._job.spec.algorithm.samples_per_prompt)
            open_groups = self._weights.open_groups
        return fair_share(room=room, open_groups=open_groups, replicas=self._replicas) - self._hand.count(kind)

    async def _is_settled(self, held: Held) -> bool:
        """Answer what needs no engine."""
        if is_spent(held.delivery):
            await self._answers.on_given_up(held)
            self._release(held)
            return True
        return False

    # ---------------------------------------------------------------- one group

    def _start(self, held: Held) -> "asyncio.Task[None]":
        task = self._tasks.create_task(self._answer(held))
        self._groups.add(task)
        task.add_done_callback(self._groups.discard)
        return task

    async def _alone(self, held: Held) -> None:
        """Should it end this process, what is finished is safe."""
        while self._groups:
            await asyncio.wait(self._groups)
        await asyncio.wait({self._start(held)})

    async def _answer(self, held: Held) -> None:
        """From the prompt to its answer on the bus; what gets none is handed back."""
        try:
            prepared = await self._prepare(held.prompt)
            group = await self._generate(held, prepared)
        except BadSample as error:
            await self._answers.on_void(held, void_of(held.prompt, "bad-sample", str(error), "rollout"))
        except TimeoutError:
            away = self._ports.retry.waiting_for
            self._log.warning("group handed back", ordinal=held.prompt.ordinal, limit_s=self._deadline_s, away=away)
            await self._hand.hand_back(held, self._config.hand_back_s, counts=not away)
        else:
            if group is None:
                await held.delivery.ack()  # nobody waits for it any more
            else:
                await self._answers.on_completed(held, group)
        self._release(held)

    async def _prepare(self, prompt: Prompt) -> Prepared:
        try:
            images = [await self._image(image) for image in prompt.images]
        except BlobMissing as error:
            raise BadSample(f"an image of the group is gone: {error}") from error
        return await self._engine.prepare(prompt, images)

    async def _image(self, image: ImageRef) -> bytes:
        """The encoded image; a blob store that is away is waited for."""
        read = partial(asyncio.to_thread, self._ports.blobs.get, image.blob)
        return await self._ports.retry.until_back(BLOB_STORE, read)

    async def _generate(self, held: Held, prepared: Prepared) -> Completed | None:
        """The group; None when it is of an evaluation that others have finished. Raises TimeoutError."""
        prompt = held.prompt
        want = Want(prompt.ordinal, prompt.sampling.n, at_least=prompt.min_version, exactly=prompt.version)
        async with self._gate.enter(want) as is_wanted:
            if not is_wanted:
                return None
            self._status.state = "generating"
            started_at = time.time()
            self._in_flight.start(prompt)
            held.begin(self._deadline_s)
            try:
                async with asyncio.timeout(self._deadline_s):
                    completions = await self._engine.generate(prepared, key=_key(held))
            except (BadSample, TimeoutError):
                held.end()
                raise
            finally:
                self._in_flight.end(prompt)
            held.end()  # not when we end in the middle of it: then it may be what ended us
        return completed(
            prompt, prepared, completions, self._engine.patch_size, self._ports.settings.replica, started_at
        )

    def _release(self, held: Held) -> None:
        self._hand.release(held)
        self._status.in_flight = len(self._hand)

    # ---------------------------------------------------------------- what others see

    async def _tell_engine(self) -> None:
        facts, replica = self._engine.facts, self._ports.settings.replica
        self._log.info("model loaded", **facts)
        await self._ports.bus.announce(
            EngineOpened(job=self._job.id, service="rollout", replica=replica, facts=facts, opened_at=time.time())
        )

    async def _loaded(self, loaded: Loaded, fetched: int, seconds: float) -> None:
        self._metrics.loaded(loaded, fetched, seconds)
        self._status.version = loaded.version
        replica = self._ports.settings.replica
        await self._answers.on_loaded(self._job.id, replica, loaded.version)
        await self._ports.bus.announce(
            WeightsLoaded(
                job=self._job.id,
                replica=replica,
                version=loaded.version,
                fetched_bytes=fetched,
                load_s=seconds,
                stall_s=loaded.stall_s,
                kept=loaded.kept,
                loaded_at=time.time(),
            )
        )

    async def _tell_version(self) -> None:
        """The ledger forgets a replica that is silent."""
        while True:
            await asyncio.sleep(LOADED_S / 3)
            if self._status.version >= 0:
                await self._answers.on_loaded(self._job.id, self._ports.settings.replica, self._status.version)

    async def _count_replicas(self) -> None:
        """Who shares this job's work, this one included; the last number stays while the ledger is away."""
        with contextlib.suppress(Unavailable):
            loaded = (await self._ports.ledger.view(self._job.id)).loaded
            self._replicas = len({*loaded, self._ports.settings.replica})

    async def _keep_counting(self) -> None:
        while True:
            await asyncio.sleep(self._config.count_s)
            await self._count_replicas()


def update_mode(spec: JobSpec) -> UpdateMode:
    """On-policy groups end before their step is trained: nothing is in flight then that could be kept."""
    return "keep" if spec.algorithm.max_staleness > 0 else "drain"


def _is_suspect(held: Held) -> bool:
    return held.delivery.attempts >= _ALONE_FROM


def _turn(held: Held) -> tuple[int, int]:
    """Suspects are done in the order of their attempts; those of equal ones from their first to their last at odd
    attempts, from their last to their first at even ones.

    One that kills its process costs all behind it an attempt; so it costs none of them more than one of every two.
    """
    attempts, ordinal = held.delivery.attempts, held.prompt.ordinal
    return attempts, ordinal if attempts % 2 else -ordinal


def _key(held: Held) -> str:
    """Names the group in the engine: one that was handed back and comes again is another."""
    prompt = held.prompt
    identity = message_id(prompt.job, prompt.kind, prompt.version, prompt.ordinal, prompt.attempt)
    return f"{identity}/{held.delivery.deliveries}"
