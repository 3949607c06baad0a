"""The demonstration from nothing to its table: data, warm start, servers, services, one job over REST, clean-up."""

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import tempfile
import threading
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shared.errors import TriuneError
from shared.jobs.document import parse_job, write_toml
from shared.jobs.spec import JobSpec
from shared.runtime.settings import Settings, local_folder
from triune.cli.client import Api
from triune.cli.jobs.watch import watch_job
from triune.demo.dataset import HELD_OUT_PER_TASK, TRAIN_PER_TASK, make
from triune.demo.tasks import TASKS
from triune.demo.tiny_vlm import Family
from triune.demo.warm_start import Recipe, warm_start
from triune.local.deployment import Deployment, deployed

out = Console(highlight=False)


@dataclass(frozen=True)
class Options:
    """What the command line changes of the demo's job; None: as in `job.toml`."""

    max_staleness: int | None = None
    steps: int | None = None
    seed: int = 0
    keep_running: bool = False
    family: Family = "qwen2_5_vl"


class Interrupted(TriuneError):
    """Ctrl-C or a TERM signal."""


def run_demo(settings: Settings, options: Options) -> dict[str, Any]:
    """Run the demo; returns its report. Raises TriuneError; whatever happens, what was started is stopped."""
    signal.signal(signal.SIGTERM, _interrupt)  # until the loop has its own handlers
    local = local_folder(settings.runs)
    data, model = prepare(local / "demo", options.family)
    spec = demo_job(data, model, options)
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir=local))
    try:
        return asyncio.run(_run(settings, spec, folder, options))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted("interrupted; what was half made is removed")


def prepare(folder: Path, family: Family = "qwen2_5_vl") -> tuple[Path, Path]:
    """The drawn data set and the warm-started model, made on first use; returns their folders."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out) as progress:
        return _drawn(folder / "data", progress), warm_start(folder, progress, Recipe(family=family))


def _drawn(folder: Path, progress: Progress) -> Path:
    """The data set in `folder`; drawn beside it and renamed, so that a folder that is there is whole."""
    if not folder.exists():
        total = len(TASKS) * (TRAIN_PER_TASK + HELD_OUT_PER_TASK)
        bar = progress.add_task("drawing eight tasks", total=total)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-", ignore_cleanup_errors=True) as made:
            make(Path(made) / "data", progress=lambda rows: progress.advance(bar, rows))
            (Path(made) / "data").rename(folder)
    return folder


def demo_job(data: Path, model: Path, options: Options) -> JobSpec:
    """The job of `job.toml` on this data and model, with the options of the command line."""
    document = tomllib.loads(files("triune.demo").joinpath("job.toml").read_text())
    document["model"] = str(model)
    document["data"]["train"] = [str(data / "train")]
    document["data"]["held_out"] = [str(data / "test")]
    document["seed"] = options.seed
    if options.steps is not None:
        document["total_steps"] = options.steps
    if options.max_staleness is not None:
        document["algorithm"]["max_staleness"] = options.max_staleness
    return parse_job(document)


async def _run(settings: Settings, spec: JobSpec, folder: Path, options: Options) -> dict[str, Any]:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    replicas = {"data": 1, "rollout": 1, "reward": 1, "learner": 1, "monitor": 1}
    threads = compute_threads(spec.algorithm.max_staleness)
    async with deployed(settings.runs, folder, replicas=replicas, threads=threads) as system:
        out.print(f"page: {system.page_url}")
        watching = asyncio.create_task(system.supervisor.watch())
        try:
            report = await asyncio.to_thread(_follow, settings, spec, system, stop, watching)
            if options.keep_running:
                out.print(f"still running at {system.page_url}; Ctrl-C stops everything")
                while not stop.is_set() and not watching.done():
                    await asyncio.wait({watching}, timeout=0.2)
            return report
        finally:
            watching.cancel()


def compute_threads(max_staleness: int) -> dict[str, int]:
    """Threads of rollout and learner: all cores for a learner that takes turns with the rollout, half else.

    A rollout has half of them anyhow: the small products of decoding gain little from more, and its groups are scored
    and made ready for the learner meanwhile.
    """
    cores = os.cpu_count() or 1
    half = max(1, cores // 2)
    learner = cores if max_staleness == 0 else half
    return {"rollout": half, "learner": learner, "data": 1, "reward": 1, "monitor": 1}


def _follow(
    settings: Settings, spec: JobSpec, system: Deployment, stop: threading.Event, watching: "asyncio.Task[None]"
) -> dict[str, Any]:
    """Submit the job over REST, show it until it ends, and read its report."""

    def look() -> None:
        if stop.is_set():
            raise Interrupted("interrupted; everything that was started is stopped")
        if watching.done():
            watching.result()

    api = Api(dataclasses.replace(settings, api_url=system.api_url, api_token=system.token))
    job = api.submit(write_toml(spec))["job_id"]
    try:
        watch_job(api, job, title=job, look=look)
        return dict(json.loads((settings.runs / job / "report.json").read_text()))
    finally:
        _keep_logs(system.logs, settings.runs / job / "logs")


def _keep_logs(logs: Path, target: Path) -> None:
    """Copy the services' logs into the run folder before their own folder is removed."""
    if logs.exists():
        shutil.copytree(logs, target, dirs_exist_ok=True)
