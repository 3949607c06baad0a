"""Services over REST: replicas, queues, streams and the ledger."""

from fastapi import APIRouter

from services.monitor.api.replicas import Replicas
from services.monitor.api.shapes import LedgerShown, QueueShown, ReplicaShown, Services, StreamShown
from services.monitor.control import Control
from services.monitor.handlers import Desk
from shared.bus.port import STREAMS, WORK_STREAMS
from shared.errors import Unavailable
from shared.ledger.port import Ledger
from shared.messages import Kind
from shared.runtime.retry import Retry

KINDS: tuple[Kind, ...] = ("train", "eval")


class ServiceRoutes:
    """GET /v1/services."""

    def __init__(self, desk: Desk, control: Control, replicas: Replicas, ledger: Ledger, retry: Retry) -> None:
        self._desk, self._control, self._replicas, self._ledger = desk, control, replicas, ledger
        self._retry = retry
        self.router = APIRouter(tags=["services"])
        self.router.add_api_route("/v1/services", self.services, methods=["GET"])

    async def services(self) -> Services:
        """Every replica that was heard of, and what lies in the queues; what does not answer is left out."""
        job = self._control.active.id if self._control.active else None
        return Services(
            active_job=job,
            waiting_for=self._retry.waiting_for,
            replicas=[ReplicaShown(**replica) for replica in self._replicas.show()],
            queues=await self._queues(job) if job else [],
            streams=await self._streams(),
            ledger=await self._ledger_view(job) if job else None,
        )

    async def _queues(self, job: str) -> list[QueueShown]:
        """The job's work queues; none while the bus is away."""
        shown = []
        try:
            for stream in WORK_STREAMS:
                for kind in KINDS:
                    waiting, in_hand = await self._desk.bus.waiting(stream, job, kind)
                    shown.append(QueueShown(stream=stream, kind=kind, waiting=waiting, in_hand=in_hand))
        except Unavailable:
            return []
        return shown

    async def _streams(self) -> list[StreamShown]:
        shown = []
        try:
            for stream in STREAMS:
                state = await self._desk.bus.stream_state(stream)
                shown.append(
                    StreamShown(stream=stream, messages=state.messages, bytes=state.bytes, max_bytes=state.max_bytes)
                )
        except Unavailable:
            return []
        return shown

    async def _ledger_view(self, job: str) -> LedgerShown | None:
        try:
            view = await self._ledger.view(job)
        except Unavailable:
            return None
        window = view.window
        return LedgerShown(
            version=window.version if window else None,
            cursor=window.cursor if window else None,
            window_end=window.end if window else None,
            max_staleness=window.max_staleness if window else None,
            in_flight=view.in_flight,
            loaded=dict(view.loaded),
        )
