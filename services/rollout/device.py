"""A device that the replica shares with the learner: when it is ours, and how it is left."""

import time

from services.rollout.gate import Gate
from shared.bus.port import Bus
from shared.messages import DeviceTurn
from shared.service import Status

_NAME = "device"


class SharedDevice:
    """The replica's side of `DeviceTurn`; the learner's is `services.learner.device`."""

    def __init__(self, bus: Bus, job: str, replica: str, status: Status) -> None:
        self._bus, self._job, self._replica, self._status = bus, job, replica, status
        self._heard = 0  # the sequence up to which it was listened to

    async def until_ours(self) -> None:
        """Return once the learner is not on the device, nor waits for it; before the engine is opened."""
        last = await self._bus.last_event(self._job, _NAME)
        if last is None:
            return
        turn, self._heard = last
        assert isinstance(turn, DeviceTurn)
        if turn.state == "wanted":
            await self._leave(turn)
        if turn.state != "returned":
            self._status.state = "waiting for the device"
            await self._returned()

    async def follow(self, gate: Gate) -> None:
        """Leave the device when the learner wants it, and come back, for ever."""
        async for turn, _ in self._bus.events(self._job, _NAME, after=self._heard):
            if isinstance(turn, DeviceTurn) and turn.state == "wanted":
                await gate.lend()
                self._status.state = "asleep"
                await self._leave(turn)
            elif isinstance(turn, DeviceTurn) and turn.state == "returned":
                gate.take_back()

    async def _leave(self, turn: DeviceTurn) -> None:
        """Nothing of ours is on the device."""
        await self._bus.announce(
            DeviceTurn(job=self._job, turn=turn.turn, state="free", replica=self._replica, sent_at=time.time())
        )

    async def _returned(self) -> None:
        async for turn, sequence in self._bus.events(self._job, _NAME, after=self._heard):
            self._heard = sequence
            if isinstance(turn, DeviceTurn) and turn.state == "returned":
                return
