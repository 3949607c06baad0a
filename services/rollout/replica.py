"""One replica at work on one job: take prompts, load their weights, generate, answer.

Evaluation goes before training; what has come back twice is done alone, so that a prompt that kills its replica takes
no other with it.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import TypeVar

from services.rollout.config import RolloutConfig
from services.rollout.engine import Engine
from services.rollout.generation import Answer, generate_batch
from services.rollout.hand import Hand, Held
from services.rollout.handlers import Answers
from services.rollout.metrics import RolloutMetrics
from services.rollout.weights import WeightsLoader, WeightsView
from shared.blobs.weights import WeightsStore
from shared.bus.port import DELIVERY_BUDGET, WorkQueue
from shared.errors import BlobMissing, Unavailable, one_error
from shared.jobs.following import ActiveJob
from shared.jobs.spec import JobSpec
from shared.ledger.port import LOADED_S
from shared.messages import BlobRef, Completed, Prompt
from shared.runtime.logging import get_logger
from shared.service import Ports, Status

Result = TypeVar("Result")
_ALONE_FROM = 3
"""The delivery from which on a prompt is done alone.

A prompt that comes back once was most likely held by a replica that was stopped or killed for reasons of its own, with
all else that it held: one by one, that would keep a survivor busy many times longer than as a batch.
"""
_GLANCE_S = 0.05
"""How long one queue is looked at while the other may have something, too."""


class Replica:
    """The work on one job, from opening its model to the job's end."""

    def __init__(
        self,
        job: ActiveJob,
        ports: Ports,
        open_engine: Callable[[JobSpec], Engine],
        config: RolloutConfig,
        status: Status,
        metrics: RolloutMetrics,
    ) -> None:
        self._job, self._ports, self._open_engine, self._config = job, ports, open_engine, config
        self._status, self._metrics = status, metrics
        self._settings = job.spec.rollout
        self._hand = Hand(self._settings.group_deadline_s)
        self._answers = Answers(ports.bus, ports.ledger, metrics)
        self._weights = WeightsView(ports.bus, job.id)
        self._thread = ThreadPoolExecutor(1, "engine")
        self._log = get_logger(job=job.id)

    async def run(self) -> None:
        """Work until cancelled; raises the first TriuneError alone. What is in hand at the end is handed back."""
        files = contextlib.ExitStack()
        try:
            self._status.state = "loading"
            self._engine = await self._in_thread(partial(self._open_engine, self._job.spec))
            store = WeightsStore(self._ports.blobs, self._ports.settings.weights)
            self._loader = WeightsLoader(self._engine, store)
            files.callback(self._loader.close)
            with one_error():
                async with asyncio.TaskGroup() as self._tasks:
                    await self._weights.look()
                    self._tasks.create_task(self._weights.watch())
                    self._tasks.create_task(self._hand.keep_alive())
                    self._tasks.create_task(self._tell_version())
                    await self._serve()
        finally:
            self._status.state, self._status.version, self._status.in_flight = "idle", -1, 0
            self._thread.shutdown(wait=False, cancel_futures=True)
            files.close()
            await self._hand.hand_back_all()

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # ---------------------------------------------------------------- prompts

    async def _serve(self) -> None:
        bus, job = self._ports.bus, self._job.id
        evaluation, training = await bus.work("prompts", job, "eval"), await bus.work("prompts", job, "train")
        while True:
            self._status.state = "waiting"
            began = time.monotonic()
            await self._hand.at_most(self._settings.groups_in_flight)  # a batch is published while the next is made
            taken = await self._take(evaluation, training)
            self._metrics.waited(time.monotonic() - began)
            for batch in await self._sort(taken):
                await self._answer(batch)

    async def _take(self, evaluation: WorkQueue, training: WorkQueue) -> list[Held]:
        """The prompts of the next batch, all of one kind; none after a while without any."""
        taken: list[Held] = []
        if self._weights.evaluating:
            # One greedy completion a prompt: so many prompts make as many rows as a batch of training groups.
            size = self._settings.groups_in_flight * self._job.spec.algorithm.samples_per_prompt
            taken = await self._fetch(evaluation, size, _GLANCE_S)
        if taken:
            return taken
        if self._job.record.state == "stopping":  # the learner has voided what is in the queue
            await self._job.changed(_GLANCE_S)
            return []
        wait_s = _GLANCE_S if self._weights.evaluating else self._config.fetch_wait_s
        return await self._fetch(training, self._settings.groups_in_flight, wait_s)

    async def _fetch(self, queue: WorkQueue, room: int, wait_s: float) -> list[Held]:
        """What comes within `wait_s`, and what follows it closely: a full batch costs little more than one prompt."""
        taken: list[Held] = []
        while len(taken) < room and not (taken and self._last_admitted(taken[-1].prompt)):
            more = await queue.fetch(room - len(taken), self._config.linger_s if taken else wait_s)
            taken += [self._hand.take(delivery) for delivery in more]
            self._status.in_flight = len(self._hand)
            if not more:
                break
        return taken

    def _last_admitted(self, prompt: Prompt) -> bool:
        """Whether no training prompt can follow `prompt` before new weights are published."""
        return prompt.kind == "train" and prompt.ordinal + 1 == self._weights.window_end

    async def _sort(self, taken: Sequence[Held]) -> list[list[Held]]:
        """Batches in the order in which they are done, suspects last; what needs no engine is answered at once."""
        suspects: list[Held] = []
        others: list[Held] = []
        for held in taken:
            if held.delivery.deliveries > DELIVERY_BUDGET:
                await self._answers.on_given_up(held)
                self._release(held)
            elif held.prompt.version is not None and self._weights.evaluation_done(held.prompt.version):
                await self._drop([held])
            else:
                (suspects if _is_suspect(held) else others).append(held)
        others.sort(key=lambda held: (held.prompt.version or 0, held.prompt.ordinal))
        suspects.sort(key=_turn)
        return [list(batch) for _, batch in groupby(others, key=lambda held: held.prompt.version)] + [
            [held] for held in suspects
        ]

    async def _drop(self, batch: Sequence[Held]) -> None:
        """Nobody waits for these any more."""
        for held in batch:
            await held.delivery.ack()
            self._release(held)

    # ---------------------------------------------------------------- one batch

    async def _answer(self, batch: Sequence[Held]) -> None:
        """Generate `batch` with the weights that it asks for; what gets no answer is handed back."""
        self._status.state = "loading"
        if not await self._load([held.prompt for held in batch]):
            await self._drop(batch)
            return
        if _is_suspect(batch[0]):  # should it end this process, what is finished is safe
            await self._hand.all_published()
        self._status.state = "generating"
        self._hand.begin(batch)
        await asyncio.gather(*(self._answers.on_started(held.prompt, self._deadline_s) for held in batch))
        answered: set[int] = set()
        stop = threading.Event()
        loop = asyncio.get_running_loop()

        def settle(index: int, answer: Answer) -> None:
            answered.add(index)
            self._hand.answer(batch[index])
            self._tasks.create_task(self._settle(batch[index], answer))

        done = loop.run_in_executor(
            self._thread,
            partial(
                generate_batch,
                self._engine,
                [held.prompt for held in batch],
                lambda image: self._ports.blobs.get(image.blob),
                self._ports.settings.replica,
                lambda index, answer: _call(loop, settle, index, answer),
                stop.is_set,
            ),
        )
        await self._wait(done, stop)
        for index, held in enumerate(batch):
            if index not in answered:
                self._log.warning("group handed back", ordinal=held.prompt.ordinal, limit_s=self._deadline_s)
                await self._hand.hand_back(held)

    async def _wait(self, done: "asyncio.Future[None]", stop: threading.Event) -> None:
        """Return when the batch is done or its deadline has passed; the engine has stopped then, also when cancelled.

        Raises the engine's error, or Unavailable when it does not stop: the process must end.
        """
        try:
            await asyncio.wait({done}, timeout=self._deadline_s)
        finally:
            stop.set()
            ended, late = await asyncio.wait({done}, timeout=self._config.grace_s)
            for one in ended:
                one.exception()  # seen, also when we are being cancelled
        if late:
            raise Unavailable(f"the engine did not stop within {self._config.grace_s} s of its batch's deadline")
        done.result()

    @property
    def _deadline_s(self) -> float:
        return self._settings.group_deadline_s

    async def _settle(self, held: Held, answer: Answer) -> None:
        if answer is None:
            await self._hand.hand_back(held, self._config.hand_back_s)
            return
        if isinstance(answer, Completed):
            await self._answers.on_completed(held, answer)
        else:
            await self._answers.on_void(held, answer)
        self._release(held)

    def _release(self, held: Held) -> None:
        self._hand.release(held)
        self._status.in_flight = len(self._hand)

    async def _load(self, prompts: Sequence[Prompt]) -> bool:
        """Evaluation: exactly its version; training: the newest one, which is at least what the prompts ask for.

        False when the evaluation was done by others meanwhile: then there is nothing to generate.
        """
        limit_s = self._config.weights_limit_s
        until = time.monotonic() + limit_s
        while True:
            found = await self._wanted(prompts, limit_s)
            if found is None:
                return False
            if self._loader.runs(*found):
                return True
            try:
                seconds = await self._in_thread(partial(self._loader.load, *found))
            except BlobMissing:  # a newer version may have replaced it just now
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(_GLANCE_S)
                continue
            self._metrics.loaded(seconds)
            self._status.version, _ = found
            await self._answers.on_loaded(self._job.id, self._ports.settings.replica, self._status.version)
            return True

    async def _wanted(self, prompts: Sequence[Prompt], limit_s: float) -> tuple[int, BlobRef] | None:
        """Version and manifest that `prompts` are to be generated with; None: not any more."""
        if prompts[0].version is not None:
            return await self._weights.evaluated(prompts[0].version, limit_s)
        return await self._weights.at_least(max(one.min_version for one in prompts), limit_s)

    async def _tell_version(self) -> None:
        """The ledger forgets a replica that is silent."""
        while True:
            await asyncio.sleep(LOADED_S / 3)
            if self._status.version >= 0:
                await self._answers.on_loaded(self._job.id, self._ports.settings.replica, self._status.version)


def _is_suspect(held: Held) -> bool:
    return held.delivery.deliveries >= _ALONE_FROM


def _turn(held: Held) -> int:
    """Suspects are done from their first to their last at odd deliveries, from their last to their first at even ones.

    One that ends its process costs all behind it a delivery; so it costs none of them more than one of every two.
    """
    return held.prompt.ordinal if held.delivery.deliveries % 2 else -held.prompt.ordinal


def _call(loop: asyncio.AbstractEventLoop, settle: Callable[[int, Answer], None], index: int, answer: Answer) -> None:
    """From the engine's thread into the loop."""
    loop.call_soon_threadsafe(settle, index, answer)
