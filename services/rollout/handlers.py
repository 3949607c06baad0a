"""What the rollout service does with a prompt once its fate is known: group, void, or given up."""

import contextlib

from services.rollout.hand import Held
from services.rollout.metrics import RolloutMetrics
from shared.bus.port import Bus
from shared.errors import Unavailable
from shared.ledger.port import Ledger
from shared.messages import Completed, DeadLetter, Message, Prompt, Voided, message_id, void_of
from shared.runtime.logging import get_logger
from shared.runtime.moments import passing
from shared.runtime.telemetry import group_span


class Answers:
    """Publishes answers; each returns once its message is durably stored and the prompt acked."""

    def __init__(self, bus: Bus, ledger: Ledger, metrics: RolloutMetrics) -> None:
        self._bus, self._ledger, self._metrics = bus, ledger, metrics

    async def on_loaded(self, job: str, replica: str, version: int) -> None:
        """The engine runs `version` now; the ledger is a view: a server that is away stops nothing."""
        with contextlib.suppress(Unavailable):
            await self._ledger.loaded(job, replica, version)

    async def on_completed(self, held: Held, group: Completed) -> None:
        """The group is whole."""
        await self._publish(held, "completions", group, started_at=group.started_at)
        self._metrics.completed(group)

    async def on_void(self, held: Held, voided: Voided) -> None:
        """The sample can't be used, ever."""
        await self._publish(held, "scored", voided)
        self._metrics.void(voided.source)
        get_logger().warning(
            "group void", job=voided.job, ordinal=voided.ordinal, reason=voided.reason, detail=voided.detail
        )

    async def on_given_up(self, held: Held) -> None:
        """Delivered too often: whoever took it before did not live to answer. The void first, then the letter."""
        prompt, deliveries = held.prompt, held.delivery.deliveries
        reason = f"the prompt was delivered {deliveries} times and never answered"
        letter = DeadLetter(
            job=prompt.job,
            subject=held.delivery.subject,
            ordinal=prompt.ordinal,
            deliveries=deliveries,
            reason=reason,
            service="rollout",
        )
        voided = void_of(prompt, "redelivered", reason, "rollout")
        await self._bus.publish("scored", prompt.job, prompt.kind, voided, _id(prompt))
        await self._bus.publish("dead", prompt.job, prompt.kind, letter, _id(prompt))
        await held.delivery.ack()
        self._metrics.void(prompt.source)
        get_logger().error("group given up", job=prompt.job, ordinal=prompt.ordinal, deliveries=deliveries)

    async def _publish(self, held: Held, stream: str, message: Message, started_at: float | None = None) -> None:
        prompt = held.prompt
        with group_span("rollout.generate", prompt, held.delivery.trace, started_at):
            await self._bus.publish(stream, prompt.job, prompt.kind, message, _id(prompt))
        passing("completion-published")
        await held.delivery.ack()


def _id(prompt: Prompt) -> str:
    return message_id(prompt.job, prompt.kind, prompt.version, prompt.ordinal, prompt.attempt)
