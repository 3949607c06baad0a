"""Plays the other services: a run whose rewards rise, with images, boxes, voids and errors, step after step."""

import io
import random
import time

import msgspec
from PIL import Image, ImageDraw

from shared.jobs.record import JobRecord
from shared.ledger.port import Window
from shared.messages import ChatTurn, EngineOpened, Heartbeat, ImageRef, RewardSpec, Scored, StepDone
from tests.monitor import runs
from tests.monitor.stage import Stage

GROUPS = 8
STEP_S = 2.0
"""How long a step takes, by its stamps."""
TRUE_BOX = (200, 300, 600, 800)
_DETECTION = RewardSpec(
    verifier="detection",
    answer="",
    ground_truth="<answer>[{'bbox_2d': [200, 300, 600, 800], 'label': 'square'}]</answer>",
)
_MATH = RewardSpec(verifier="mathverify", answer="3/4", ground_truth="\\boxed{\\frac{3}{4}}")


def drawn_image(number: int) -> bytes:
    """A PNG of 280 x 140 pixels with a square where `TRUE_BOX` says."""
    image = Image.new("RGB", (280, 140), (235, 235, 240))
    pen = ImageDraw.Draw(image)
    x1, y1, x2, y2 = TRUE_BOX
    pen.rectangle((x1 * 0.28, y1 * 0.14, x2 * 0.28, y2 * 0.14), fill=(40 + number * 20 % 200, 90, 160))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


class Actor:
    """Makes the steps of one job."""

    def __init__(self, stage: Stage, job: str, *, seed: int = 0, solved: frozenset[str] = frozenset()) -> None:
        """Every answer of the sources `solved` is right: their groups teach nothing."""
        self.stage, self.job, self._solved = stage, job, solved
        self._random = random.Random(seed)
        self._began = time.time() - 30 * STEP_S
        self._step = 0

    async def load(self) -> None:
        """The replicas tell what they compute with."""
        for replica, check in (("learner-a", 3.2e-6), ("rollout-a", 1.4e-6), ("rollout-b", 1.4e-6)):
            facts: dict[str, str | int | float] = {"device": "cpu", "dtype": "float32", "self_check": check}
            service = replica.split("-")[0]
            engine = {"engine": "torch" if service == "learner" else "hf"}
            opened = EngineOpened(
                job=self.job, service=service, replica=replica, facts=facts | engine, opened_at=self._began
            )
            await self.stage.announce(self.job, opened)

    async def evaluate(self, version: int) -> None:
        groups = [self._group(k, kind="eval", version=version, step=version, n=1) for k in range(GROUPS)]
        await self.stage.publish(self.job, *groups)
        await self.stage.announce(self.job, runs.eval_done(version, GROUPS))

    async def step(self) -> None:
        """One training step, at the staleness bound that the job has now."""
        record = await self.stage.jobs.get(self.job)
        assert record is not None
        first, self._step = self._step * GROUPS, self._step + 1
        stale = min(_eta(record), self._step - 1)
        ordinals = range(first, first + GROUPS)
        groups = [self._group(k, step=self._step, weights=self._step - 1 - stale) for k in ordinals[:-1]]
        await self.stage.publish(self.job, *groups, runs.void(ordinals[-1]))
        await self.stage.jobs.set_ordinal(self.job, first + GROUPS)
        await self.stage.announce(self.job, self._done(list(ordinals[:-1]), ordinals[-1], stale, groups))
        window = Window(version=self._step, cursor=first + GROUPS, end=first + 2 * GROUPS, max_staleness=_eta(record))
        await self.stage.ledger.write_window(self.job, window)
        await self.beat()

    async def beat(self) -> None:
        """Heartbeats of all services."""
        for replica in ("data-a", "rollout-a", "rollout-b", "reward-a", "learner-a"):
            service = replica.split("-")[0]
            version = self._step if service in ("rollout", "learner") else -1
            beat = Heartbeat(service=service, replica=replica, pid=1, state="working", version=version)
            await self.stage.bus.beat(beat)

    def _done(self, trained: list[int], void: int, stale: int, groups: list[Scored]) -> StepDone:
        done = runs.step_done(self._step, trained, [void], stale=stale)
        metrics = {"entropy": 2.0 * 0.98**self._step, "grad_norm": 0.5, "grad_norm/llm": 0.5, "tokens": 400.0}
        advantages = {g.prompt.ordinal: [r.final - 0.5 for r in g.rewards] for g in groups}
        return msgspec.structs.replace(
            done, metrics=metrics, advantages=advantages, finished_at=self._began + STEP_S * self._step
        )

    def _group(self, ordinal: int, *, step: int, n: int = 4, weights: int = 0, **place: object) -> Scored:
        skill = min(0.95, 0.3 + 0.02 * step)
        return _timed(self._answered(ordinal, n, skill, weights, place), self._began + STEP_S * step)

    def _answered(self, ordinal: int, n: int, skill: float, weights: int, place: dict[str, object]) -> Scored:
        make, source = (self._detection, "shapes") if ordinal % 2 else (self._math, "sums")
        hits = [source in self._solved or self._random.random() < skill for _ in range(n)]
        return make(ordinal, hits, weights, place)

    def _math(self, ordinal: int, hits: list[bool], weights: int, place: dict[str, object]) -> Scored:
        thought = "<think>\nHalf of $\\frac{3}{2}$ is $\\frac{3}{4}$. Wait, let me verify.\n</think>\n"
        right = thought + "It is \\boxed{\\frac{3}{4}}"
        texts = [right if hit else "<think>\nI guess.\n</think>\n\\boxed{2}" for hit in hits]
        rewards = [None if ordinal % 34 == 0 and k == 0 else float(hit) for k, hit in enumerate(hits)]
        lengths = [self._random.randint(20, 60) for _ in hits]
        scored = runs.group(
            ordinal,
            rewards,
            texts=texts,
            lengths=lengths,
            weights=weights,
            spec=_MATH,
            **place,  # type: ignore[arg-type]
        )
        return _asking(scored, "What is half of $\\frac{3}{2}$?")

    def _detection(self, ordinal: int, hits: list[bool], weights: int, place: dict[str, object]) -> Scored:
        data = drawn_image(ordinal % 5)
        image = ImageRef(blob=self.stage.blobs.put(data), width=280, height=140)
        boxes = [TRUE_BOX if hit else (150, 250, 500, 700) for hit in hits]
        texts = [f"I see it.\n<answer>\n[{{'bbox_2d': {list(box)}, 'label': 'square'}}]\n</answer>" for box in boxes]
        parts = [
            {"report_iou_50_label_match_precision": float(hit), "report_iou_50_label_match_recall": float(hit)}
            for hit in hits
        ]
        scored = runs.group(
            ordinal,
            [1.0 if hit else 0.2 for hit in hits],
            source="shapes",
            task="detection",
            texts=texts,
            lengths=[30] * len(hits),
            weights=weights,
            spec=_DETECTION,
            parts=parts,
            image=image,
            **place,  # type: ignore[arg-type]
        )
        return _asking(scored, "<image>\nWhere is the square?")


def _timed(scored: Scored, end: float) -> Scored:
    """Generated by one of two replicas in the second and a half before its step's end, and scored at once."""
    ordinal = scored.prompt.ordinal
    begin = end - 1.9 + 0.1 * (ordinal % GROUPS)
    prompt = msgspec.structs.replace(scored.group.prompt, published_at=begin - 0.2)
    times = {"started_at": begin, "finished_at": begin + 0.5, "replica": f"rollout-{'ab'[ordinal // 2 % 2]}"}
    group = msgspec.structs.replace(scored.group, prompt=prompt, **times)
    return msgspec.structs.replace(scored, group=group, started_at=begin + 0.55, finished_at=begin + 0.6)


def _asking(scored: Scored, text: str) -> Scored:
    prompt = msgspec.structs.replace(scored.group.prompt, turns=[ChatTurn(role="user", content=text)])
    return msgspec.structs.replace(scored, group=msgspec.structs.replace(scored.group, prompt=prompt))


def _eta(record: JobRecord) -> int:
    eta = record.spec.algorithm.max_staleness
    return int(next((c.value for c in reversed(record.changes) if c.key == "max_staleness"), eta))
