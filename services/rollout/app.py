"""Builds the rollout service: a replica that works on the active job."""

from services.rollout.config import RolloutConfig
from services.rollout.engine import Engine, PromptLimits
from services.rollout.metrics import RolloutMetrics
from services.rollout.replica import Replica
from shared.errors import UserError
from shared.jobs.following import ActiveJob, follow_active
from shared.jobs.spec import JobSpec
from shared.service import Ports, Service, Status, run


def open_engine(spec: JobSpec) -> Engine:
    """The engine that the job names, with its model loaded; raises UserError when it can't be had."""
    limits = PromptLimits(spec.data.min_image_pixels, spec.data.max_image_pixels, spec.data.max_prompt_tokens)
    if spec.rollout.engine == "hf":
        from services.rollout.engines.hf import HfEngine

        return HfEngine.open(
            spec.model, dtype=spec.rollout.dtype, limits=limits, banned_tokens=spec.sampling.banned_tokens
        )
    raise UserError(f"rollout.engine is {spec.rollout.engine!r}; this version has 'hf'")


def build(ports: Ports, config: RolloutConfig | None = None) -> Service:
    """The rollout service over `ports`."""
    config = config or RolloutConfig()
    status, metrics = Status(state="idle", ready=True), RolloutMetrics()

    async def work(job: ActiveJob) -> None:
        await Replica(job, ports, open_engine, config, status, metrics).run()

    async def follow() -> None:
        await follow_active(ports.jobs, work, service="rollout")

    return Service("rollout", [follow], status)


def main() -> int:
    return run("rollout", build)
