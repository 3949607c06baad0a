"""Builds the data service: one active instance, one job at a time."""

from services.data.config import DataConfig
from services.data.handlers import Deps, on_job
from services.data.metrics import instruments
from shared.jobs.following import follow_active
from shared.jobs.lease import while_leading
from shared.samples.places import Roots
from shared.service import Ports, Service, Status, run


def build(ports: Ports, config: DataConfig | None = None) -> Service:
    """The service over `ports`."""
    status = Status(state="waiting", ready=True)
    deps = Deps(
        bus=ports.bus,
        blobs=ports.blobs,
        jobs=ports.jobs,
        instruments=instruments(),
        status=status,
        config=config or DataConfig(),
        roots=Roots.of(ports.settings.data_roots),
        retry=ports.retry,
        plugin_roots=ports.settings.reward_plugins,
    )

    async def lead() -> None:
        await while_leading(ports.bus, "data", ports.settings.replica, serve_jobs)

    async def serve_jobs() -> None:
        await follow_active(ports.jobs, lambda job: on_job(job, deps), service="data", crashes=ports.crashes)

    return Service("data", [lead], status)


def main() -> int:
    """The process; returns its exit code."""
    return run("data", build)
