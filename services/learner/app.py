"""Builds the learner: the one active instance trains the active job."""

import asyncio

from services.learner.config import LearnerConfig
from services.learner.engines.torch import TorchEngine
from services.learner.ingest import GroupIngest
from services.learner.metrics import LearnerMetrics
from services.learner.training import Training
from shared.jobs.following import ActiveJob, follow_active
from shared.jobs.lease import while_leading
from shared.service import Ports, Service, Status, run


def build(ports: Ports, config: LearnerConfig | None = None) -> Service:
    """The learner over `ports`."""
    config = config or LearnerConfig()
    status, metrics = Status(state="standby", ready=True), LearnerMetrics()

    async def train(job: ActiveJob) -> None:
        status.state = "loading"
        ingest = await asyncio.to_thread(GroupIngest, job.spec)
        await Training(job, ports, ingest, TorchEngine(ingest.pixels), config, status, metrics).run()

    async def lead() -> None:
        status.state = "idle"
        await follow_active(ports.jobs, train, service="learner")

    async def main_loop() -> None:
        await while_leading(ports.bus, "learner", ports.settings.replica, lead)

    return Service("learner", [main_loop], status)


def main() -> int:
    return run("learner", build)
