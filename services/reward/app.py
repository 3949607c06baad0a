"""Builds the reward service: on the bus (`main`), or as an HTTP server alone (`serve_alone`)."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial

from services.reward.config import RewardConfig
from services.reward.endpoints.teacher import Teacher
from services.reward.handlers import Deps, consume
from services.reward.http.app import create_app
from services.reward.http.discovery import announced
from services.reward.metrics import instruments
from services.reward.scoring import make_scorer
from services.reward.workers.pool import WORKER
from shared.errors import BadJob, UserError
from shared.jobs.following import ActiveJob, follow_active
from shared.jobs.spec import JobSpec
from shared.messages import Kind
from shared.runtime.collector import ignore_what_is_there
from shared.runtime.http import serve_http
from shared.runtime.retry import CONNECT_S
from shared.runtime.settings import Settings
from shared.runtime.telemetry import set_up_telemetry
from shared.service import Ports, Service, Status, run

_KINDS: tuple[Kind, ...] = ("eval", "train")


def build(ports: Ports, config: RewardConfig | None = None) -> Service:
    """The service on the bus; with a health port it also answers the whole HTTP interface there."""
    config = config or RewardConfig()
    settings, status, counters = ports.settings, Status(), instruments()
    config = deployed(config, settings)
    scorer = make_scorer(config, counters, ports.retry)
    deps = Deps(ports.bus, scorer, counters, settings.replica, config.deadline_s, ports.retry, ports.blobs)

    async def score(job: ActiveJob) -> None:
        queues = [await ports.bus.work("completions", job.id, kind) for kind in _KINDS]
        status.state = "scoring"
        try:
            async with teacher_of(job.spec, ports) as teacher, asyncio.TaskGroup() as group:
                for queue in queues:
                    group.create_task(consume(queue, replace(deps, teacher=teacher), config.groups_in_flight))
        finally:
            status.state = "idle"

    async def loop() -> None:
        async with contextlib.AsyncExitStack() as stack:
            start = partial(stack.enter_async_context, scorer)
            await ports.retry.until_back(WORKER, start, limit_s=CONNECT_S)
            status.state, status.ready = "idle", True
            group = await stack.enter_async_context(asyncio.TaskGroup())
            group.create_task(scorer.pool.watch())
            await follow_active(ports.jobs, score, service="reward", crashes=ports.crashes)

    http = None
    if settings.health_port:
        http = (
            create_app(scorer, config, token=settings.api_token, cross_origin=False),
            settings.health_host,
            settings.health_port,
        )
    return Service("reward", [loop], status, http)


def teacher_of(spec: JobSpec, ports: Ports) -> AbstractAsyncContextManager[Teacher | None]:
    """The job's teacher; raises BadJob when the operator has named no server for it."""
    if not spec.distillation.model:
        return contextlib.nullcontext()
    settings = ports.settings
    if settings.teacher_url is None:
        raise BadJob(
            [
                f"distillation.model is {spec.distillation.model!r}, and the reward service knows no teacher: expected "
                "TRIUNE_TEACHER_URL in its environment"
            ]
        )
    return Teacher(settings.teacher_url, settings.teacher_key, spec.distillation, ports.blobs)


def main() -> int:
    """The reward service's process."""
    return run("reward", build)


def deployed(config: RewardConfig, settings: Settings) -> RewardConfig:
    """`config` with what the environment decides."""
    return replace(
        config,
        plugin_roots=settings.reward_plugins,
        judge_url=settings.judge_url,
        judge_key=settings.judge_key,
    )


async def serve_alone(
    config: RewardConfig,
    settings: Settings,
    host: str,
    port: int,
    *,
    token: str | None = None,
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Serve HTTP until SIGTERM or SIGINT, announced under `settings.job_id` where there is one.

    Raises UserError for a port that is taken or a JOB_ID that is no name, Unavailable when the workers do not start.
    """
    _check_port(host, port)  # before anything is started or announced
    telemetry = set_up_telemetry("reward", settings)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    scorer = make_scorer(config, instruments())
    try:
        with announced(settings.job_id, host, port):
            async with scorer:
                ignore_what_is_there()
                app = create_app(scorer, config, token=token)
                serving = serve_http(app, host, port, short_answers=True, on_listening=on_listening)
                await _until(stop, serving, scorer.pool.watch())
    finally:
        telemetry.close()


async def _until(stop: asyncio.Event, *work: Coroutine[None, None, object]) -> None:
    """Run the work until some of it fails or `stop` is set."""
    tasks = [asyncio.ensure_future(one) for one in (*work, stop.wait())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(tasks)


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
