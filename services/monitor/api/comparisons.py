"""Runs beside each other over REST, and what people call them."""

import asyncio
import dataclasses
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StringConstraints

from services.monitor.analysis.comparison import Comparison, compare
from services.monitor.api.jobs import find_job
from services.monitor.control import Control
from services.monitor.handlers import Desk
from services.monitor.history.labels import Label, read_label, write_label

Tag = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]


class LabelChange(BaseModel):
    """What a run is to be called; a key that is left out stays as it is."""

    title: str | None = Field(default=None, max_length=100, examples=["smaller clip, seed 2"])
    tags: list[Tag] | None = Field(default=None, max_length=20, examples=[["baseline"]])
    hidden: bool | None = Field(default=None, description="left out of lists, unless they are asked for all runs")


class ComparisonRoutes:
    """GET /v1/comparison and PATCH /v1/jobs/{job_id}/label."""

    def __init__(self, desk: Desk, control: Control) -> None:
        self._desk, self._control = desk, control
        self.router = APIRouter(tags=["comparison"])
        self.router.add_api_route("/v1/comparison", self.comparison, methods=["GET"])
        self.router.add_api_route("/v1/jobs/{job_id}/label", self.label, methods=["PATCH"])

    async def comparison(self, job: Annotated[list[str], Query(min_length=1, max_length=20)]) -> Comparison:
        """The settings in which runs differ, held-out rewards with standard errors, and which runs are repetitions."""
        records = [await find_job(self._desk, self._control, job_id) for job_id in dict.fromkeys(job)]
        return await asyncio.to_thread(compare, records, self._desk.runs)

    async def label(self, job_id: str, change: LabelChange) -> Label:
        """Give a run a title and tags, hide it from lists, or show it again; at any time, also after its end."""
        record = await find_job(self._desk, self._control, job_id)
        folder = self._desk.runs / record.id

        def replace() -> Label:
            label = dataclasses.replace(read_label(folder), **change.model_dump(exclude_none=True))
            write_label(folder, label)
            return label

        return await asyncio.to_thread(replace)
