"""Work queues in memory: messages in hand, and who takes them."""

import time
from collections.abc import Sequence

from shared.bus.memory.server import LOOK_S, MemoryServer
from shared.bus.memory.streams import MemoryConsumer, Stored
from shared.messages import AnyMessage, decode


class MemoryDelivery:
    """One message in hand (`shared.bus.port.Delivery`)."""

    def __init__(self, server: MemoryServer, consumer: MemoryConsumer, stored: Stored, deliveries: int) -> None:
        self._server, self._consumer = server, consumer
        self.message: AnyMessage = decode(stored.body)
        self.subject = stored.subject
        self.sequence = stored.sequence
        self.deliveries = deliveries
        self.attempts = deliveries - consumer.excused[stored.sequence]
        self.trace = stored.trace

    async def ack(self) -> None:
        self._consumer.ack(self.sequence)
        self._server.changed()

    async def keep(self) -> None:
        self._consumer.due_at(self.sequence, self._server.clock() + self._server.ack_wait_s)

    async def hand_back(self, delay_s: float = 0.0, *, counts: bool = False) -> None:
        self._consumer.excused[self.sequence] += not counts
        self._consumer.due_at(self.sequence, self._server.clock() + delay_s)
        self._server.changed()


class MemoryWorkQueue:
    """A durable consumer of one subject (`shared.bus.port.WorkQueue`)."""

    def __init__(self, server: MemoryServer, subject: str) -> None:
        self._server, self._subject = server, subject

    async def fetch(self, max_messages: int, wait_s: float) -> Sequence[MemoryDelivery]:
        server, until = self._server, time.monotonic() + wait_s
        while True:
            consumer = server.consumers.get(self._subject)  # absent: the job was forgotten, nothing comes
            if consumer is not None:
                now = server.clock()
                taken = consumer.take(max_messages, now, now + server.ack_wait_s)
                if taken:
                    return [MemoryDelivery(server, consumer, stored, count) for stored, count in taken]
            left = until - time.monotonic()
            if left <= 0:
                return []
            await server.wait_change(min(left, LOOK_S))
