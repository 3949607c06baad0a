"""The prompts that this replica has in hand, kept alive: what waits, what is generated in time, what is published."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from shared.bus.port import HEARTBEAT_S, Delivery
from shared.messages import Prompt


@dataclass(eq=False)
class Held:
    """One delivery; `deadline` is on the monotonic clock and runs while its group is generated."""

    delivery: Delivery
    prompt: Prompt
    deadline: float = math.inf
    is_answered: bool = False


class Hand:
    """What is in hand, in order of arrival.

    Only generating has a deadline: how long a prompt waits for its turn is bounded by how many are taken at once, and
    how long its answer takes to be published, by the bus.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._held: dict[int, Held] = {}
        self._released = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    def take(self, delivery: Delivery) -> Held:
        """From now on it is kept alive."""
        assert isinstance(delivery.message, Prompt)
        held = Held(delivery, delivery.message)
        self._held[id(held)] = held
        return held

    def begin(self, batch: Sequence[Held]) -> None:
        """These are being generated: their deadline runs."""
        for held in batch:
            held.deadline = time.monotonic() + self._deadline_s

    def answer(self, held: Held) -> None:
        """Its answer is there and on its way to the bus."""
        held.is_answered, held.deadline = True, math.inf

    def holds(self, held: Held) -> bool:
        return id(held) in self._held

    def release(self, held: Held) -> None:
        """It was answered, or is somebody else's now; again is fine."""
        self._held.pop(id(held), None)
        self._released.set()

    async def hand_back(self, held: Held, delay_s: float = 0.0) -> None:
        """Offer it to all replicas again."""
        self.release(held)
        await held.delivery.hand_back(delay_s)

    async def hand_back_all(self) -> None:
        for held in list(self._held.values()):
            await self.hand_back(held)

    async def at_most(self, size: int) -> None:
        """Return once no more than `size` are in hand."""
        while len(self) > size:
            self._released.clear()
            await self._released.wait()

    async def all_published(self) -> None:
        """Return once no answer is on its way any more."""
        while any(held.is_answered for held in self._held.values()):
            self._released.clear()
            await self._released.wait()

    async def keep_alive(self) -> None:
        """Keep all that is in hand and in time, for ever; the bus delivers again what is past its deadline."""
        while True:
            now = time.monotonic()
            for held in list(self._held.values()):
                if now < held.deadline:
                    await held.delivery.keep()
            await asyncio.sleep(HEARTBEAT_S)
