"""Where a run's time goes, over REST: a timeline of its replicas, and what each step took of each service."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from services.monitor.analysis.spans import Timeline, step_costs, timeline
from services.monitor.api.jobs import find_job
from services.monitor.api.shapes import StepCosts
from services.monitor.control import Control
from services.monitor.handlers import Desk


class TimeRoutes:
    """GET /v1/jobs/{job_id}/timeline and /costs."""

    def __init__(self, desk: Desk, control: Control) -> None:
        self._desk, self._control = desk, control
        self.router = APIRouter(tags=["runs"])
        self.router.add_api_route("/v1/jobs/{job_id}/timeline", self.timeline, methods=["GET"])
        self.router.add_api_route("/v1/jobs/{job_id}/costs", self.costs, methods=["GET"])

    async def timeline(
        self,
        job_id: str,
        seconds: Annotated[float, Query(ge=1, le=86_400)] = 120.0,
        until: Annotated[float | None, Query(ge=0, le=2**40, description="absent: the run's last stamp")] = None,
    ) -> Timeline:
        """What every replica did in the `seconds` before `until` (seconds since the epoch)."""
        record = await find_job(self._desk, self._control, job_id)
        return await asyncio.to_thread(timeline, self._desk.runs / record.id, seconds, until)

    async def costs(self, job_id: str, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> StepCosts:
        """Seconds, tokens, GPU-hours and money of the newest steps, newest first."""
        record = await find_job(self._desk, self._control, job_id)
        priced = record.spec.monitor
        steps = await asyncio.to_thread(
            lambda: step_costs(self._desk.runs / record.id, limit, gpus=priced.gpus, price=priced.gpu_hour_price)
        )
        return StepCosts(job_id=job_id, gpus=priced.gpus, gpu_hour_price=priced.gpu_hour_price, steps=steps)
