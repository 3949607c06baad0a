"""A device that the learner shares with the one rollout replica of the job: they take turns on it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, Protocol, runtime_checkable

from shared.bus.port import Bus
from shared.errors import BadJob, Unavailable
from shared.messages import DeviceTurn
from shared.runtime.logging import get_logger
from shared.service import Status

_NAME = "device"


@runtime_checkable
class Sleeper(Protocol):
    """An engine that can leave its device."""

    def sleep(self) -> None:
        """Bring everything to the host's memory, where `export` and `save` find it."""
        ...

    def wake(self) -> None:
        """Bring everything back."""
        ...


class SharedDevice:
    """The learner's side of `DeviceTurn`; the replica's is `services.rollout.device`.

    A learner that died on its turn takes the same one up again; so does a replica that died: it opens no engine.
    """

    def __init__(
        self, bus: Bus, job: str, engine: object, status: Status, limit_s: float,
        in_compute: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:  # fmt: skip
        """`limit_s`: how long the replica may take to leave. Raises BadJob when the engine cannot leave its device."""
        if not isinstance(engine, Sleeper):
            raise BadJob(["rollout.shares_device is true, and the learner's engine cannot leave its device"])
        self._bus, self._job, self._engine, self._status = bus, job, engine, status
        self._limit_s, self._in_compute = limit_s, in_compute
        self._turn, self._has_model = 0, False

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Inside, the device is the learner's; the first time the engine has no model yet, and is opened inside."""
        await self._take()
        if self._has_model:
            await self._in_compute(self._engine.wake)
        yield
        await self._in_compute(self._engine.sleep)
        self._has_model = True
        await self._say("returned")

    async def _take(self) -> None:
        """Raises Unavailable when the replica does not leave in time."""
        before, self._status.state = self._status.state, "waiting for the device"
        last = await self._bus.last_event(self._job, _NAME)
        turn, after = (None, 0) if last is None else (last[0], last[1] - 1)
        if isinstance(turn, DeviceTurn):
            self._turn = turn.turn
        if not isinstance(turn, DeviceTurn) or turn.state == "returned":
            self._turn += 1
            after = await self._say("wanted")
        try:
            async with asyncio.timeout(self._limit_s):
                await self._until_free(after)
        except TimeoutError:
            raise Unavailable(
                f"the rollout replica has not left the shared device within {self._limit_s:g} s"
            ) from None
        self._status.state = before

    async def _until_free(self, after: int) -> None:
        async for turn, _ in self._bus.events(self._job, _NAME, after=after):
            if isinstance(turn, DeviceTurn) and (turn.turn, turn.state) == (self._turn, "free"):
                get_logger(job=self._job).info("the device is ours", turn=self._turn)
                return

    async def _say(self, state: Literal["wanted", "returned"]) -> int:
        return await self._bus.announce(DeviceTurn(job=self._job, turn=self._turn, state=state, sent_at=time.time()))
