"""A run over REST: its curves, samples, void groups, images and live stream."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Header, Query
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from services.monitor.analysis.advice import Line, standstill
from services.monitor.analysis.browse import Wanted, find_advice, find_samples, find_series
from services.monitor.analysis.timing import PACE_STEPS
from services.monitor.api.jobs import find_job
from services.monitor.api.shapes import (
    Catalogue,
    DeadLetters,
    Findings,
    FindingShown,
    SampleList,
    SeriesDescribed,
    SeriesList,
    VoidList,
)
from services.monitor.checks.changes import settings_now
from services.monitor.control import Control
from services.monitor.exports.images import kept_image
from services.monitor.handlers import Desk
from services.monitor.history.queries import reading
from services.monitor.live import Listener, Notice
from services.monitor.values.catalog import CATALOG, is_known
from shared.errors import BadJob, BlobMissing
from shared.jobs.record import JobRecord
from shared.messages import BlobRef

ALIVE_S = 15.0
"""A silent stream says so often that it is alive."""
REPLAYED_STEPS = 1000
"""Steps that a stream tells again to a listener who comes back."""

RUNS_REMEMBERED = 64
"""Runs whose diagnostics are kept."""

Documented = dict[int | str, dict[str, Any]]
Text = Annotated[str | None, Query(max_length=200)]
Number = Annotated[int | None, Query(ge=0, le=2**53)]


class RunRoutes:
    """The routes below /v1/jobs/{job_id} that read its run folder."""

    def __init__(self, desk: Desk, control: Control) -> None:
        self._desk, self._control = desk, control
        self._advice: dict[str, tuple[tuple[int, ...], list[Line]]] = {}  # job -> what they were made of, and they
        self.router = APIRouter(tags=["runs"])
        add = self.router.add_api_route
        add("/v1/series", self.catalogue, methods=["GET"])
        # Large answers: written by msgspec in a thread, described by their models.
        add("/v1/jobs/{job_id}/metrics", self.metrics, methods=["GET"], response_model=SeriesList)
        add("/v1/jobs/{job_id}/samples", self.samples, methods=["GET"], response_model=SampleList)
        add("/v1/jobs/{job_id}/voids", self.voids, methods=["GET"])
        add("/v1/jobs/{job_id}/dead-letters", self.dead_letters, methods=["GET"])
        add("/v1/jobs/{job_id}/diagnostics", self.diagnostics, methods=["GET"])
        stream: Documented = {200: {"content": {"text/event-stream": {}}, "description": "server-sent events"}}
        add(
            "/v1/jobs/{job_id}/events", self.events, methods=["GET"], response_class=StreamingResponse, responses=stream
        )
        image: Documented = {200: {"content": {"image/*": {}}, "description": "the image as it was stored"}}
        add("/v1/jobs/{job_id}/images/{digest}", self.image, methods=["GET"], response_class=Response, responses=image)

    async def catalogue(self) -> Catalogue:
        """What every series is."""
        return Catalogue(series=[SeriesDescribed(**asdict(info)) for info in CATALOG])

    async def metrics(
        self,
        job_id: str,
        name: Text = None,
        source: Text = None,
        task: Text = None,
        from_step: Number = None,
        to_step: Number = None,
        max_points: Annotated[int, Query(ge=2, le=20_000)] = 2000,
    ) -> Response:
        """Curves by name, source and task; absent: any; empty: of all together. `part/*` names a whole family."""
        record = await find_job(self._desk, self._control, job_id)
        if name is not None and not is_known(name):
            near = get_close_matches(name, [info.name for info in CATALOG], n=1, cutoff=0.0)[0]
            raise BadJob([f"name: there is no series {name!r}; the nearest one is {near!r}"])
        folder, wanted, steps = self._desk.runs / record.id, (name, source, task), (from_step, to_step)

        def answer() -> Response:
            return _json({"job_id": job_id, "series": find_series(folder, wanted, steps, max_points)})

        return await asyncio.to_thread(answer)

    async def samples(
        self,
        job_id: str,
        source: Text = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 20,
        kind: Literal["train", "eval"] | None = None,
        step: Number = None,
        version: Number = None,
        ordinal: Number = None,
        state: Literal["scored", "trained", "void"] | None = None,
        errors: bool | None = None,
        min_reward: Annotated[float | None, Query(ge=0, le=1)] = None,
        max_reward: Annotated[float | None, Query(ge=0, le=1)] = None,
        before: Number = None,
    ) -> Response:
        """Groups with their completions, newest first; `before`: the `next` of the page before.

        `step`: trained in it; `version`: evaluated at it.
        """
        record = await find_job(self._desk, self._control, job_id)
        wanted = Wanted(source, kind, step, version, ordinal, state, errors, min_reward, max_reward)
        folder = self._desk.runs / record.id

        def answer() -> Response:
            page = find_samples(folder, wanted, limit, before)
            return _json({"job_id": job_id, "samples": page.samples, "next": page.next})

        return await asyncio.to_thread(answer)

    async def voids(
        self,
        job_id: str,
        source: Text = None,
        reason: Text = None,
        before: Number = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> VoidList:
        """Groups that were given up, newest first; `before`: the `next` of the page before."""
        record = await find_job(self._desk, self._control, job_id)

        def answer() -> VoidList:
            with reading(self._desk.runs / record.id) as reader:
                found = reader.void_groups(source, reason, before, limit + 1) if reader else []
                counts = reader.void_reasons() if reader else {}
                held_out_counts = reader.void_reasons("eval") if reader else {}
            shown = found[:limit]
            return VoidList(
                job_id=job_id,
                counts=counts,
                held_out_counts=held_out_counts,
                voids=[{key: value for key, value in void.items() if key != "id"} for void in shown],
                next=shown[-1]["id"] if len(found) > limit else None,
            )

        return await asyncio.to_thread(answer)

    async def diagnostics(self, job_id: str) -> Findings:
        """What the curves say, one line a rule; docs/diagnostics.md has the formulas."""
        record = await find_job(self._desk, self._control, job_id)
        lines = await asyncio.to_thread(self._find_advice, record)
        lines = await asyncio.to_thread(self._standstill, record) + lines
        return Findings(job_id=job_id, findings=[FindingShown(**asdict(line)) for line in lines])

    def _find_advice(self, record: JobRecord) -> list[Line]:
        """Read anew only after a further step, evaluation or change."""
        folder = self._desk.runs / record.id
        with reading(folder) as reader:
            seen = (reader.last_step(), len(reader.evaluations())) if reader else (0, 0)
        made_of, lines = self._advice.get(record.id, ((), []))
        if made_of != (*seen, len(record.changes)):
            made_of, lines = (*seen, len(record.changes)), find_advice(folder, settings_now(record))
            if len(self._advice) >= RUNS_REMEMBERED:
                self._advice.clear()
            self._advice[record.id] = made_of, lines
        return lines

    def _standstill(self, record: JobRecord) -> list[Line]:
        if record.state != "running" or record.started_at is None:
            return []
        with reading(self._desk.runs / record.id) as reader:
            ends = reader.step_ends(PACE_STEPS) if reader else []
        return standstill(ends, record.started_at, time.time())

    async def dead_letters(self, job_id: str, limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> DeadLetters:
        """What was given up because whoever worked on it died too often; each such group is void, too."""
        record = await find_job(self._desk, self._control, job_id)
        found = await self._desk.bus.dead_letters(record.id, limit)
        return DeadLetters(job_id=job_id, letters=[msgspec.to_builtins(letter) for letter in found])

    async def image(self, job_id: str, digest: str) -> Response:
        """An image of a sample, by its digest."""
        await find_job(self._desk, self._control, job_id)
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise HTTPException(404, f"{digest!r} is no digest; expected 64 hex digits")
        try:
            data = await asyncio.to_thread(self._image_bytes, job_id, digest)
        except BlobMissing as error:
            raise HTTPException(404, str(error)) from error
        kind = _image_kind(data)
        if kind is None:
            raise HTTPException(404, f"blob {digest} is no image")
        safe = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
        return Response(data, media_type=kind, headers=safe)

    def _image_bytes(self, job_id: str, digest: str) -> bytes:
        kept = kept_image(self._desk.runs / job_id, digest)
        return kept if kept is not None else self._desk.blobs.get(BlobRef(digest=digest, size=0))

    async def events(
        self, job_id: str, last_event_id: Annotated[str | None, Header(max_length=20)] = None
    ) -> StreamingResponse:
        """What happens in a job, as server-sent events: state, step, evaluation, void, groups; it ends with the job.

        The id of a step is its number; with `Last-Event-ID` the steps after it are told first.
        """
        await find_job(self._desk, self._control, job_id)
        if self._desk.live.is_full:
            raise HTTPException(503, "too many listeners; try again later")
        after = int(last_event_id) if last_event_id and last_event_id.isdecimal() else None
        unbuffered = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(job_id, after), media_type="text/event-stream", headers=unbuffered)

    async def _stream(self, job_id: str, after: int | None) -> AsyncIterator[str]:
        with self._desk.live.listening(job_id) as listener:
            record = await find_job(self._desk, self._control, job_id)
            yield _event("state", json.dumps({"state": record.state, "error": record.error}))
            for notice in await asyncio.to_thread(self._past_steps, job_id, after):
                yield _sse(notice)
            while not self._control.is_told(record):
                async for text in _pass_on(listener):
                    yield text
                record = self._control.records.get(job_id, record)

    def _past_steps(self, job_id: str, after: int | None) -> list[Notice]:
        if after is None:
            return []
        with reading(self._desk.runs / job_id) as reader:
            steps = reader.steps(after, REPLAYED_STEPS) if reader else []
        return [
            Notice("step", json.dumps({"step": s["step"], "trained": s["groups"], "void": s["void"]})) for s in steps
        ]


async def _pass_on(listener: Listener) -> AsyncIterator[str]:
    notices = await listener.next(ALIVE_S)
    for notice in notices:
        yield _sse(notice)
    if not notices:
        yield ": alive\n\n"


def _json(document: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(document), media_type="application/json")


def _sse(notice: Notice) -> str:
    number = f"id: {json.loads(notice.data)['step']}\n" if notice.event == "step" else ""
    return number + _event(notice.event, notice.data)


def _event(event: str, data: str) -> str:
    return f"event: {event}\ndata: {data}\n\n"


_MAGIC = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
}


def _image_kind(data: bytes) -> str | None:
    """The media type that the first bytes tell; None when it is no image that may be in a data set."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
