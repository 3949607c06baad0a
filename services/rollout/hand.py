"""The prompts that this replica has in hand, kept alive: what waits, what is generated in time, what is published."""

import asyncio
import math
import time
from dataclasses import dataclass

from shared.bus.port import HEARTBEAT_S, Delivery
from shared.messages import Kind, Prompt


@dataclass(eq=False)
class Held:
    """One delivery; `deadline` is on the monotonic clock and runs while its group is generated."""

    delivery: Delivery
    prompt: Prompt
    deadline: float = math.inf

    def begin(self, limit_s: float) -> None:
        """It is being generated: its deadline runs."""
        self.deadline = time.monotonic() + limit_s

    def end(self) -> None:
        """It is generated; how long its answer takes to be published is bounded by the bus."""
        self.deadline = math.inf


class Hand:
    """What is in hand. Only generating has a deadline: how long a prompt waits for its turn is bounded by how many are
    taken at once.
    """

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def count(self, kind: Kind) -> int:
        """How many of them are of `kind`."""
        return sum(held.prompt.kind == kind for held in self._held.values())

    def take(self, delivery: Delivery) -> Held:
        """From now on it is kept alive."""
        assert isinstance(delivery.message, Prompt)
        held = Held(delivery, delivery.message)
        self._held[id(held)] = held
        return held

    def release(self, held: Held) -> None:
        """It was answered, or is somebody else's now; again is fine."""
        self._held.pop(id(held), None)

    async def hand_back(self, held: Held, delay_s: float = 0.0, *, counts: bool = False) -> None:
        """Offer it to all replicas again; with `counts` the work on it failed as by a death."""
        self.release(held)
        await held.delivery.hand_back(delay_s, counts=counts)

    async def hand_back_all(self, *, failed: bool) -> None:
        """Offer all to the other replicas; with `failed` what was being generated may be what ended us."""
        for held in list(self._held.values()):
            await self.hand_back(held, counts=failed and held.deadline < math.inf)

    async def keep_alive(self) -> None:
        """Keep all that is in hand and in time, for ever; the bus delivers again what is past its deadline."""
        while True:
            now = time.monotonic()
            for held in list(self._held.values()):
                if now < held.deadline:
                    await held.delivery.keep()
            await asyncio.sleep(HEARTBEAT_S)
