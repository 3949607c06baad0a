"""Jobs over REST: submit, list, show, change, and move from state to state."""

import asyncio
import contextlib
import re
import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import PlainTextResponse, Response

from services.monitor.api.details import details_of, known_sources, summary_of
from services.monitor.api.shapes import JobDetails, JobList, JobState, Validated
from services.monitor.checks.changes import (
    changed_spec,
    newest,
    read_changes,
    step_mistakes,
    weights_left,
    with_changes,
)
from services.monitor.checks.foolish import warnings
from services.monitor.checks.journal import JOURNAL_KEYS, journal_mistakes, left_over_bytes
from services.monitor.checks.submission import (
    create_job,
    learner_memory,
    parse_document,
    read_submission,
    refuse_any_file,
    training_sources,
)
from services.monitor.control import Control
from services.monitor.handlers import Desk
from services.monitor.history.imports import read_run, take_back
from shared.errors import BadJob, Unavailable
from shared.jobs.document import write_toml
from shared.jobs.record import ENDED, OVER, IllegalMove, JobRecord, State, UnknownJob, abandoned, by_age
from shared.jobs.spec import JobSpec, derived
from shared.messages import JOB_ID_PATTERN, StepDone
from shared.runtime.retry import Retry, within
from shared.runtime.settings import Settings
from shared.samples.places import Roots

SEEN_S = 0.5
"""How long a question waits for the bus before it is answered with what was seen last, where there is such a thing."""
_JOB_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "the job file: TOML, or the same keys as JSON",
        "content": {
            "application/toml": {
                "schema": {"type": "string"},
                "example": 'model = "Qwen/Qwen2.5-VL-7B-Instruct"\ntotal_steps = 100\n[data]\ntrain = ["data/train"]\n',
            },
            "application/json": {
                "schema": {"$ref": "#/components/schemas/JobSpec"},
                "example": {"model": "models/tiny", "total_steps": 3, "data": {"train": ["data/train"]}},
            },
        },
    }
}
_CHANGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "what to change, as JSON or TOML",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"max_staleness": {"type": "integer"}, "total_steps": {"type": "integer"}},
                    "additionalProperties": True,
                },
                "example": {"max_staleness": 2, "sources": {"chart": {"weight": 0.5}}},
            }
        },
    }
}


class JobRoutes:
    """The routes under /v1/jobs that concern a job as a whole."""

    def __init__(self, desk: Desk, control: Control, settings: Settings, retry: Retry) -> None:
        self._desk, self._control, self._settings, self._retry = desk, control, settings, retry
        self._roots = Roots.of(settings.data_roots)
        self._plugin_roots = settings.reward_plugins
        self.router = APIRouter(tags=["jobs"])
        add = self.router.add_api_route
        add("/v1/jobs", self.submit, methods=["POST"], status_code=201, openapi_extra=_JOB_BODY)
        add("/v1/jobs:validate", self.validate, methods=["POST"], openapi_extra=_JOB_BODY)
        add("/v1/jobs", self.list_jobs, methods=["GET"])
        add("/v1/jobs/{job_id}", self.show, methods=["GET"])
        text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
        add("/v1/jobs/{job_id}/file", self.file, methods=["GET"], response_class=Response, responses=text)
        add("/v1/jobs/{job_id}", self.change, methods=["PATCH"], openapi_extra=_CHANGE_BODY)
        add("/v1/jobs/{job_id}", self.delete, methods=["DELETE"], status_code=202)
        add("/v1/jobs/{job_id}/import", self.import_run, methods=["POST"], status_code=201)
        for verb in (self.pause, self.resume, self.stop, self.checkpoint):
            add(f"/v1/jobs/{{job_id}}/{verb.__name__}", verb, methods=["POST"])

    async def submit(self, request: Request) -> JobState:
        """Put a job at the end of the queue; with mistakes, nothing is started and all of them are listed."""
        record = await create_job(await self._read(request), self._desk.jobs, self._desk.runs)
        return _state(record)

    async def validate(self, request: Request) -> Validated:
        """What a job would be, with every default and the numbers that follow; nothing is started."""
        spec = await self._read(request)
        memory = await asyncio.to_thread(learner_memory, spec)
        foolish = await asyncio.to_thread(warnings, spec, self._roots, self._plugin_roots)
        return Validated(
            spec=msgspec.to_builtins(spec), derived=derived(spec), learner_memory_gib=memory, warnings=foolish
        )

    async def list_jobs(
        self,
        limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
        before: Annotated[str | None, Query(max_length=40)] = None,
    ) -> JobList:
        """All jobs, oldest first; with `limit`, the newest of them, and with `before`, the newest of those before it.

        `before` is the `next` of the page before.
        """
        try:
            with _shortly(bool(self._control.records)):
                records = await self._desk.jobs.list(self._control.records)
        except Unavailable:
            records = sorted(self._control.records.values(), key=by_age)
        if before is not None:
            place = next((index for index, record in enumerate(records) if record.id == before), None)
            if place is None:
                raise UnknownJob(before)
            records = records[:place]
        shown = records if limit is None else records[-limit:]
        jobs = await asyncio.to_thread(lambda: [summary_of(self._desk, record) for record in shown])
        older = shown[0].id if len(shown) < len(records) else None
        return JobList(jobs=jobs, next=older, waiting_for=self._retry.waiting_for)

    async def show(self, job_id: str) -> JobDetails:
        """One job with its report so far."""
        record = await find_job(self._desk, self._control, job_id)
        ordinal = 0  # then the report counts what the journal shows
        with contextlib.suppress(Unavailable), _shortly(True):
            ordinal = await self._desk.jobs.ordinal(record.id)
        return await asyncio.to_thread(details_of, self._desk, record, ordinal, self._control.errors.get(job_id, ""))

    async def file(self, job_id: str) -> PlainTextResponse:
        """The job file with every key, as TOML: what was submitted, without the changes made since."""
        record = await find_job(self._desk, self._control, job_id)
        return PlainTextResponse(write_toml(record.spec))

    async def change(self, job_id: str, request: Request) -> JobDetails:
        """Change η, the number of steps or a source's weight; each holds from the next step or ordinal on."""
        record = _must_live(await find_job(self._desk, self._control, job_id))
        document = parse_document(await request.body(), request.headers.get("content-type", ""), "the body")
        changes = read_changes(document, await asyncio.to_thread(known_sources, self._desk, record))
        mistakes = await self._cannot_hold(with_changes(record, changes), {change.key for change in changes})
        if mistakes:
            raise BadJob(mistakes)
        await self._desk.jobs.update(record.id, lambda old: with_changes(_must_live(old), changes))
        return await self.show(job_id)

    async def _cannot_hold(self, record: JobRecord, keys: set[str]) -> list[str]:
        """Why the changes of `keys`, already in `record`, cannot hold."""
        mistakes: list[str] = []
        done = await self._desk.bus.last_event(record.id, "step")
        step = done[0].step if done and isinstance(done[0], StepDone) else 0
        if "total_steps" in keys:
            mistakes += step_mistakes(record, step)
        if "max_staleness" in keys:
            mistakes += await self._journal_mistakes(changed_spec(record), besides=record.id)
        if any(key not in ("total_steps", "max_staleness") and newest(record, key, 1.0) == 0 for key in keys):
            sources = await asyncio.to_thread(training_sources, record.spec, self._roots)
            mistakes += weights_left(record, sources, step)
        return mistakes

    async def _journal_mistakes(self, spec: JobSpec, besides: str = "") -> list[str]:
        state = await self._desk.bus.stream_state("scored")
        left_over = await left_over_bytes(self._desk.bus, self._control.records.values(), besides=besides)
        return journal_mistakes(spec, state.max_bytes, left_over)

    async def pause(self, job_id: str) -> JobState:
        """Admit no further group; what was admitted is finished."""
        return await self._move(job_id, "paused")

    async def resume(self, job_id: str, accept_changed_data: bool = False) -> JobState:
        """Let a paused job go on; put a failed one into the queue again, to continue from its last checkpoint.

        A job whose data files are others than at its beginning goes on with `accept_changed_data` alone.
        """
        record = await find_job(self._desk, self._control, job_id)
        if record.state == "queued":
            raise IllegalMove(f"job {job_id} is queued; it starts by itself when its turn comes")
        if accept_changed_data:
            await self._desk.jobs.update(job_id, lambda old: msgspec.structs.replace(old, data=None))
        return await self._move(job_id, "queued" if record.state == "failed" else "running")

    async def stop(self, job_id: str) -> JobState:
        """End a job early, with a last checkpoint; one that still waits is taken out of the queue."""
        record = await find_job(self._desk, self._control, job_id)
        return await self._move(job_id, "stopped" if record.state in ("queued", "stopped") else "stopping")

    async def delete(self, job_id: str, files: bool = False) -> JobState:
        """Abandon a job: one that lives is stopped first; then all that the bus and the blob store hold of it goes.

        The run folder stays, unless `files` is given. The id is unknown from then on, and never used again.
        """
        await find_job(self._desk, self._control, job_id)
        return _state(await self._desk.jobs.update(job_id, lambda record: abandoned(record, files=files)))

    async def checkpoint(self, job_id: str) -> JobState:
        """Ask for a checkpoint at the next step boundary."""
        await find_job(self._desk, self._control, job_id)
        return _state(await self._desk.jobs.update(job_id, _want_checkpoint))

    async def import_run(self, job_id: str) -> JobState:
        """Take up a job from its run folder, which the bus knows nothing of: it goes on from its last checkpoint."""
        if not re.match(JOB_ID_PATTERN, job_id):
            raise UnknownJob(job_id)
        if await self._desk.jobs.is_taken(job_id):
            known = "is known already" if await self._desk.jobs.get(job_id) else "was deleted, and ids are never reused"
            raise IllegalMove(f"job {job_id} {known}; expected the run folder of a job that the bus never knew")
        folder = self._desk.runs / job_id
        run = await asyncio.to_thread(read_run, folder)
        if run.state not in OVER:
            await asyncio.to_thread(take_back, folder, run.place)
            await self._desk.jobs.set_ordinal(job_id, run.place.cursor)
        record = JobRecord(
            id=job_id,
            spec=run.spec,
            state=run.state,
            created_at=time.time(),
            changes=run.changes,
            imported=run.place.journal_created,
        )
        await self._desk.jobs.create(record)
        return _state(record)

    async def _move(self, job_id: str, state: State) -> JobState:
        await find_job(self._desk, self._control, job_id)
        return _state(await self._desk.jobs.move(job_id, state))

    async def _read(self, request: Request) -> JobSpec:
        body, kind = await request.body(), request.headers.get("content-type", "")
        refuse_any_file(self._settings.api_host, self._roots)
        draft = await asyncio.to_thread(read_submission, body, kind, self._roots, self._plugin_roots)
        mistakes = draft.mistakes
        if draft.has(*JOURNAL_KEYS):
            mistakes = [*mistakes, *await self._journal_mistakes(draft.spec)]
        if mistakes:
            raise BadJob(mistakes)
        return draft.spec


async def find_job(desk: Desk, control: Control, job_id: str) -> JobRecord:
    """The newest record, or the last seen one while the bus is away; raises UnknownJob."""
    try:
        with _shortly(job_id in control.records):
            record = await desk.jobs.get(job_id)
    except Unavailable:
        record = control.records.get(job_id)
    if record is None:
        raise UnknownJob(job_id)
    return record


def _shortly(is_seen: bool) -> contextlib.AbstractContextManager[None]:
    """For a question whose answer was seen before: every record is watched, so it is hardly old."""
    return within(SEEN_S) if is_seen else contextlib.nullcontext()


def _state(record: JobRecord) -> JobState:
    return JobState(job_id=record.id, state=record.state)


def _must_live(record: JobRecord) -> JobRecord:
    if record.state in ENDED or record.state == "stopping":
        raise IllegalMove(f"job {record.id} is {record.state}; it can no longer be changed")
    if record.ending or record.seal_wanted:
        raise IllegalMove(f"job {record.id} is making its last evaluation and checkpoint; it can no longer be changed")
    return record


def _want_checkpoint(record: JobRecord) -> JobRecord:
    _must_live(record)
    return msgspec.structs.replace(record, checkpoint_wanted=record.checkpoint_wanted + 1)
