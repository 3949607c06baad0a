"""One group of completions in, one journal record out."""

import asyncio
import time
from dataclasses import dataclass, field

import msgspec

from services.reward.audit import audited
from services.reward.endpoints.teacher import TEACHER, Teacher
from services.reward.scoring import Scorer
from services.reward.seen import with_images
from services.reward.verdict import Context, Sample
from shared.blobs.port import Blobs
from shared.bus.port import DELIVERY_BUDGET, Bus, Delivery, WorkQueue
from shared.errors import BadSample, BlobMissing, Corrupt, Unavailable
from shared.messages import Completed, DeadLetter, Prompt, RewardSpec, Scored, Voided, message_id, void_of
from shared.runtime.logging import get_logger
from shared.runtime.metrics import Instruments
from shared.runtime.moments import passing
from shared.runtime.retry import Retry, is_spent, kept_alive
from shared.runtime.telemetry import group_span

WORKERS = "a verifier worker, or the judge"
_FETCH_S = 1.0
_HAND_BACK_S = 0.5
_LIMIT_S = 600.0  # a group is given back to the others after so long, whatever its samples' deadlines add up to


@dataclass(frozen=True)
class Deps:
    """What the handlers work with."""

    bus: Bus
    scorer: Scorer
    instruments: Instruments
    replica: str
    deadline_s: float = 10.0
    retry: Retry = field(default_factory=Retry)
    blobs: Blobs | None = None
    """Where a judge's images are; None: it sees none."""
    teacher: Teacher | None = None


async def consume(queue: WorkQueue, deps: Deps, groups_in_flight: int) -> None:
    """Score what `queue` holds, for ever; at most `groups_in_flight` groups together, redelivered ones alone."""
    async with asyncio.TaskGroup() as group:
        running: set[asyncio.Task[None]] = set()
        while True:
            if len(running) >= groups_in_flight:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            deliveries = await queue.fetch(groups_in_flight - len(running), _FETCH_S)
            for delivery in sorted(deliveries, key=lambda one: one.attempts):
                before = frozenset(running) if delivery.attempts > 1 else frozenset()
                task = group.create_task(_handle(delivery, before, deps))
                running.add(task)
                task.add_done_callback(running.discard)
            if any(delivery.attempts > 1 for delivery in deliveries):
                await asyncio.wait(set(running))


async def _handle(delivery: Delivery, before: frozenset[asyncio.Task[None]], deps: Deps) -> None:
    """Score `delivery` once the tasks `before` it are done, keeping it alive meanwhile; cancelled, it goes back."""
    try:
        async with kept_alive(delivery):
            if before:
                await asyncio.wait(before)
            await on_completed(delivery, deps)
    except asyncio.CancelledError:
        await delivery.hand_back()
        raise


async def on_completed(delivery: Delivery, deps: Deps) -> None:
    """Judge a group's completions, publish the record to the journal, then ack.

    A group with no verifiable completion is void (`unverifiable`), as is one that the job's teacher refuses
    (`bad-sample`) or whose work has died too often (`redelivered`, and a letter to `dead`). Workers and a teacher that
    are away are waited for until the group's deadline, then it goes back to the replicas, which does not count; a
    deadline that passes without anybody away does.
    """
    group = delivery.message
    if not isinstance(group, Completed):
        raise Corrupt(f"{delivery.subject} holds a {type(group).__name__}; expected a Completed")
    if is_spent(delivery):
        await _give_up(delivery, group, deps)
        return
    try:
        record = await deps.retry.until_back(WORKERS, lambda: score_group(group, deps), limit_s=_LIMIT_S)
        if isinstance(record, Scored) and deps.teacher is not None and group.prompt.kind == "train":
            record = await _taught(record, deps.teacher, deps.retry)
    except (Unavailable, TimeoutError) as error:
        get_logger().warning("group handed back", ordinal=group.prompt.ordinal, error=repr(error))
        deps.instruments.add("reward.handed_back")
        await delivery.hand_back(_HAND_BACK_S, counts=isinstance(error, TimeoutError))
        return
    started_at = record.started_at if isinstance(record, Scored) else None
    with group_span("reward.score", group.prompt, delivery.trace, started_at):
        await _publish(record, group.prompt, deps)
    passing("score-published")
    await delivery.ack()


async def score_group(group: Completed, deps: Deps) -> Scored | Voided:
    """The journal record of `group`; raises Unavailable for an infra-error, TimeoutError past the group's deadline."""
    started_at = time.time()
    async with asyncio.timeout(_LIMIT_S):
        samples = group_samples(group, deps.deadline_s)
        try:
            rewards = await deps.scorer.score(await with_images(samples, group, deps.blobs))
        except BlobMissing as error:
            return void_of(group.prompt, "unverifiable", f"the judge cannot see the image: {error}", "reward")
    if not any(reward.ok for reward in rewards):
        detail = rewards[0].error if rewards else "the group has no completions"
        return void_of(group.prompt, "unverifiable", detail, "reward")
    try:
        rewards = await audited(samples, rewards, group, deps.scorer, deps.blobs)
    except Unavailable as error:
        get_logger().warning("group not audited", ordinal=group.prompt.ordinal, error=str(error))
        deps.instruments.add("reward.audit_failures")
    return Scored(group=group, rewards=rewards, replica=deps.replica, started_at=started_at, finished_at=time.time())


async def _taught(scored: Scored, teacher: Teacher, retry: Retry) -> Scored | Voided:
    """`scored` with the teacher's log-probs, or void when it refuses the group; raises Unavailable past the limit."""
    try:
        found = await retry.until_back(TEACHER, lambda: teacher.log_probs(scored.group), limit_s=_LIMIT_S)
    except BadSample as error:
        return void_of(scored.prompt, "bad-sample", str(error), "reward")
    return msgspec.structs.replace(scored, teacher=found, finished_at=time.time())


def group_samples(group: Completed, default_deadline_s: float) -> list[Sample]:
    """The samples of a group: its completions, each with the prompt's reward specification and image sizes."""
    prompt = group.prompt
    spec = prompt.reward
    context = Context(
        resized=[(w * group.patch_size, h * group.patch_size) for _, h, w in group.image_grid_thw],
        original=[(image.width, image.height) for image in prompt.images],
        progress=spec.step / spec.total_steps if spec.total_steps else 1.0,
        convention=group.box_convention,
    )
    deadline_s = _deadline(spec, default_deadline_s)
    return [
        Sample(completion=completion.text, spec=spec, context=context, deadline_s=deadline_s)
        for completion in group.completions
    ]


def _deadline(spec: RewardSpec, default_s: float) -> float:
    value = spec.options.get("deadline_s")
    return float(value) if isinstance(value, (int, float)) and value > 0 else default_s


async def _give_up(delivery: Delivery, group: Completed, deps: Deps) -> None:
    prompt = group.prompt
    reason = f"work on it died {delivery.attempts - 1} times, expected at most {DELIVERY_BUDGET - 1}"
    await _publish(void_of(prompt, "redelivered", reason, "reward"), prompt, deps)
    letter = DeadLetter(
        job=prompt.job,
        subject=delivery.subject,
        ordinal=prompt.ordinal,
        deliveries=delivery.deliveries,
        reason=reason,
        service="reward",
    )
    await deps.bus.publish("dead", prompt.job, prompt.kind, letter, f"{_id(prompt)}/reward")
    await delivery.ack()


async def _publish(record: Scored | Voided, prompt: Prompt, deps: Deps) -> None:
    await deps.bus.publish("scored", prompt.job, prompt.kind, record, _id(prompt))
    deps.instruments.add("reward.voided" if isinstance(record, Voided) else "reward.groups", source=prompt.source)


def _id(prompt: Prompt) -> str:
    return message_id(prompt.job, prompt.kind, prompt.version, prompt.ordinal, prompt.attempt)
