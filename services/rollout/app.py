"""Builds the rollout service: a replica that works on the active job."""

import asyncio
from functools import partial

from services.rollout.config import RolloutConfig
from services.rollout.engine import Engine, PromptLimits
from services.rollout.metrics import RolloutMetrics
from services.rollout.replica import Replica
from shared.jobs.following import ActiveJob, follow_active
from shared.jobs.spec import JobSpec
from shared.models.hf.host_images import host_images
from shared.models.inputs import Kept
from shared.runtime.collector import loading
from shared.service import Ports, Service, Status, run


async def open_engine(spec: JobSpec, config: RolloutConfig, kept: Kept | None = None) -> Engine:
    """The engine that the job names, with its model loaded; raises UserError when it can't be had."""
    with loading():
        return await _open(spec, config, kept)


async def _open(spec: JobSpec, config: RolloutConfig, kept: Kept | None) -> Engine:
    limits = PromptLimits(spec.data.min_image_pixels, spec.data.max_image_pixels, spec.data.max_prompt_tokens)
    if engine_of(spec) == "vllm":
        return await open_vllm(spec, limits, kept)
    from services.rollout.engines.batching import BatchingEngine
    from services.rollout.engines.hf import HfEngine

    opened = await asyncio.to_thread(
        HfEngine.open,
        spec.model,
        dtype=spec.rollout.dtype,
        limits=limits,
        banned_tokens=spec.sampling.banned_tokens,
        kept=kept,
        feature_gib=spec.rollout.feature_memory_gib,
    )
    room = spec.rollout.groups_in_flight * spec.algorithm.samples_per_prompt
    return BatchingEngine(opened, room, config.grace_s)


async def open_vllm(spec: JobSpec, limits: PromptLimits, kept: Kept | None = None) -> Engine:
    """Only here is anything of vLLM's environment imported; raises UserError when it is not installed."""
    import torch

    from services.rollout.engines.vllm import launch

    on_gpu = torch.cuda.is_available()
    launch.check_installed()
    launch.check_device(spec, on_gpu=on_gpu)
    launch.set_environment(on_gpu=on_gpu)
    from services.rollout.engines.vllm.engine import VllmEngine

    return await VllmEngine.open(spec, limits, kept)


def engine_of(spec: JobSpec) -> str:
    """The engine's name, chosen by whether there is a GPU where the job leaves it open."""
    if spec.rollout.engine != "auto":
        return spec.rollout.engine
    import torch

    return "vllm" if torch.cuda.is_available() else "hf"


def build(ports: Ports, config: RolloutConfig | None = None) -> Service:
    """The rollout service over `ports`."""
    config = config or RolloutConfig()
    status, metrics = Status(state="idle", ready=True), RolloutMetrics()

    async def work(job: ActiveJob) -> None:
        kept = host_images(ports.settings.images, job.id, job.spec.data.prepared_gib)
        opening = partial(open_engine, config=config, kept=kept)
        await Replica(job, ports, opening, config, status, metrics).run()

    async def follow() -> None:
        await follow_active(ports.jobs, work, service="rollout", crashes=ports.crashes)

    return Service("rollout", [follow], status)


def main() -> int:
    return run("rollout", build)
