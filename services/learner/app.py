"""Builds the learner: the one active instance trains the active job, alone or with the other ranks of torchrun."""

import asyncio
import contextlib
import functools

from services.learner.config import LearnerConfig
from services.learner.engine import Engine
from services.learner.engines.crew import Crew, dismiss, follow
from services.learner.engines.deepspeed import DeepSpeedEngine
from services.learner.engines.process import run_rank
from services.learner.engines.ranks import RankLost, Ranks
from services.learner.engines.torch import TorchEngine
from services.learner.intake.ingest import GroupIngest
from services.learner.metrics import LearnerMetrics
from services.learner.training import Training
from shared.errors import BadJob, Unavailable
from shared.jobs.following import ActiveJob, follow_active
from shared.jobs.lease import while_leading
from shared.jobs.record import IllegalMove, JobStore
from shared.jobs.spec import JobSpec
from shared.models.hf.host_images import host_images
from shared.runtime.collector import loading
from shared.runtime.logging import set_up_logging
from shared.runtime.settings import Rank, read_settings
from shared.service import Ports, Service, Status, run

LOOK_S = 0.5
"""How often rank 0 looks whether another one has failed."""


def build(ports: Ports, config: LearnerConfig | None = None, ranks: Ranks | None = None) -> Service:
    """The learner over `ports`; `ranks`: this is rank 0 of them."""
    config = config or LearnerConfig()
    status, metrics = Status(state="standby", ready=True), LearnerMetrics()

    async def train(job: ActiveJob) -> None:
        if ranks is not None and ranks.broken:
            raise RankLost("the ranks are not together any more; expected a new start of all of them")
        status.state = "loading"
        kept = host_images(ports.settings.images, job.id, job.spec.data.prepared_gib)
        with loading():  # frees the last job's model before this one's is opened
            ingest = await asyncio.to_thread(GroupIngest, job.spec, kept)
            engine = make_engine(job.spec, ingest, ranks)
        await Training(job, ports, ingest, engine, config, status, metrics).run()

    async def lead() -> None:
        status.state = "idle"
        await follow_active(ports.jobs, train, service="learner", crashes=ports.crashes)

    async def main_loop() -> None:
        await while_leading(ports.bus, "learner", ports.settings.replica, lead)

    loops = [main_loop] if ranks is None else [main_loop, lambda: watch_ranks(ports.jobs, ranks)]
    return Service("learner", loops, status)


async def watch_ranks(jobs: JobStore, ranks: Ranks) -> None:
    """End this process when the ranks are not together any more, after the job has got the sentence of one that failed.

    This one may be waiting for that rank in a call that never ends, so that nobody else could say it.
    """
    while (failure := await asyncio.to_thread(ranks.failure)) is None and not ranks.broken:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    if failure is not None and not isinstance(failure, Unavailable) and (active := await jobs.active()):
        with contextlib.suppress(IllegalMove):
            await jobs.move(active.id, "failed", str(failure))
    await asyncio.to_thread(ranks.release)
    raise RankLost(f"the ranks are not together any more: {failure or 'one is gone'}")


def make_engine(spec: JobSpec, ingest: GroupIngest, ranks: Ranks | None) -> Engine:
    """The engine that the job names; raises BadJob when this learner has no ranks for it."""
    if spec.learner.engine == "torch":
        return TorchEngine(ingest.pixels)
    if ranks is None:
        raise BadJob(
            [
                "learner.engine is 'deepspeed', and this learner is one process; expected it under torchrun: "
                "`triune up --learner-ranks N`, or `torchrun --nproc-per-node N -m services.learner`"
            ]
        )
    return Crew(ranks, DeepSpeedEngine(ranks, ingest.pixels))


def main() -> int:
    """The process: the service, or under torchrun one of its ranks; returns the exit code."""
    settings = read_settings()
    if settings.rank is not None:
        run_rank(functools.partial(_rank, settings.rank, settings.replica))
    return run("learner", build)


def _rank(place: Rank, replica: str) -> int:
    set_up_logging("learner", replica)
    ranks = Ranks(place)
    if ranks.rank > 0:
        return follow(ranks, lambda: DeepSpeedEngine(ranks))
    try:
        return run("learner", functools.partial(build, ranks=ranks))
    finally:
        dismiss(ranks)
